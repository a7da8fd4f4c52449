// Every public method of the TypeScript SDK: once with success, once with the error it must raise. DAYTONA_API_URL and DAYTONA_API_KEY say where.
// Prints JSON: `wrong` has what was answered wrongly, `untested` the methods that no call here made succeed or fail. Run by test_sdk_every_method.py.
import assert from 'node:assert/strict'
import { randomUUID } from 'node:crypto'
import { writeFileSync } from 'node:fs'

import { Absent, ends, present, publicMethods, record, sdk, version } from './recorder.mjs'

const { Daytona, DaytonaError, DaytonaNotFoundError, DaytonaConflictError, DaytonaTimeoutError, Image } = sdk
const IMAGE = process.env.SMALL_IMAGE
const name = `ts-${randomUUID()}`
const wrong = []
const cannot = 'containers cannot be paused or forked; the contract has 422'
const noSecrets = 'there is no store of secrets'
const text = 'text'
// Earlier SDKs tell fewer errors apart.
const TIMEOUT = sdk.DaytonaProcessExecutionTimeoutError ? DaytonaTimeoutError : DaytonaError

// Methods that cannot succeed, or cannot fail, and why.
const NEVER_OK = {
  'Daytona.fork': cannot, 'Sandbox.fork': cannot, 'Sandbox.pause': cannot, 'Sandbox.setAutoPauseInterval': cannot,
  'Sandbox.getMetrics': 'a history of figures is kept by telemetry back ends', 'Sandbox.updateSecrets': noSecrets,
  'Sandbox.recover': 'only a sandbox whose disk is full can be recovered, and this file system has no quotas',
  'SecretService.create': noSecrets, 'SecretService.get': noSecrets, 'SecretService.update': noSecrets, 'SecretService.delete': noSecrets, 'SecretService.list': noSecrets,
}
const NEVER_WRONG = {
  'Sandbox.createLspServer': 'makes an object and asks nobody', 'Sandbox.downloadUrl': 'signs by itself', 'Sandbox.uploadUrl': 'signs by itself',
  'Sandbox.validateSshAccess': 'that a token is not valid is its answer', 'Sandbox.waitUntilStopped': 'what is gone has stopped',
  'Sandbox.waitForResizeComplete': 'what is gone is no longer resized', 'Sandbox.getUserRootDir': 'an old name of getUserHomeDir',
  'PtyHandle.isConnected': 'says what is', 'PtyHandle.disconnect': 'ends what may have ended', 'PtyHandle.wait': 'an end is its answer, whatever the end',
  'PtyHandle.waitForConnection': 'the error comes from connectPty',
  'Image.base': text, 'Image.debianSlim': text, 'Image.env': text, 'Image.workdir': text, 'Image.runCommands': text, 'Image.pipInstall': text,
  'Image.entrypoint': text, 'Image.cmd': text, 'Image.dockerfileCommands': text, 'Image.addLocalFile': text, 'Image.addLocalDir': text,
}

// What earlier versions do not have yet of what is called here. A name too few makes its calls fail, a name too many is told.
const ABSENT = Object.entries({
  '0.190.': {
    Daytona: 'fork',
    Git: 'configureUser dangerouslyAuthenticate getConfig init remoteAdd remoteGet remotes reset restore setConfig',
    Sandbox: 'createSnapshot downloadUrl fork getMetrics getMetricsLatest rotateSigningKey setAutoPauseInterval setTtl updateEnv updateSecrets uploadUrl',
    SecretService: 'create delete get list update',
    WarmPoolService: 'create delete list update',
  },
}).flatMap(([earlier, classes]) => (version.startsWith(earlier) ? Object.entries(classes) : []))
  .flatMap(([cls, names]) => names.split(' ').map((method) => `${cls}.${method}`))

async function step(action) {
  try {
    return await action()
  } catch (error) {
    if (error instanceof Absent) return {}
    const line = /methods\.mjs:(\d+)/.exec(error.stack ?? '')?.[1]
    wrong.push(`methods.mjs:${line}: ${error.constructor?.name}: ${String(error.message).slice(0, 400)}`)
  }
}
const all = async (actions) => { for (const action of actions) await step(action) }
const raises = (cls, action) => step(async () => {
  let raised
  await Promise.resolve().then(action).catch((error) => { raised = error })
  assert.ok(raised instanceof cls || raised instanceof Absent, `${action}: got ${raised?.constructor?.name}, wanted ${cls.name}: ${String(raised?.message).slice(0, 200)}`)
})
const rejected = async (cls, actions) => { for (const action of actions) await raises(cls, action) }
async function until(condition, what, seconds = 60) {
  const deadline = Date.now() + seconds * 1000
  for (;;) {
    const value = await condition()
    if (value) return value
    assert.ok(Date.now() < deadline, `waited ${seconds} s for ${what}`)
    await new Promise((done) => setTimeout(done, 50))
  }
}
// What is there, or nothing as long as it is not. createSnapshot waits for the sandbox's state by events; that of the start before it may come after its own
// request's answer, and then it returns too early.
const ifThere = (lookup) => lookup.catch((error) => { if (!(error instanceof DaytonaNotFoundError)) throw error })
async function listed(query, from = daytona) {
  const found = []
  for await (const sandbox of from.list(query)) found.push(sandbox)
  return found
}

async function files({ fs }) {
  await all([
    () => fs.createFolder('m/d', '755'),
    () => fs.uploadFile(Buffer.from('needle\n'), 'm/a.txt'),
    () => fs.uploadFiles([{ source: Buffer.from('hay\n'), destination: 'm/b.txt' }]),
    () => fs.uploadFileStream(Buffer.from('streamed'), 'm/s'),
    async () => assert.equal((await fs.downloadFile('m/a.txt')).toString(), 'needle\n'),
    async () => {
      const chunks = []
      for await (const chunk of await fs.downloadFileStream('m/s')) chunks.push(chunk)
      assert.equal(Buffer.concat(chunks).toString(), 'streamed')
    },
    async () => assert.equal((await fs.downloadFiles([{ source: 'm/b.txt' }]))[0].result.toString(), 'hay\n'),
    async () => assert.deepEqual((await fs.listFiles('m')).map((f) => f.name).sort(), ['a.txt', 'b.txt', 'd', 's']),
    async () => assert.equal((await fs.getFileDetails('m/a.txt')).size, 7),
    async () => assert.deepEqual((await fs.findFiles('m', 'needle')).map((m) => m.line), [1]),
    async () => assert.equal((await fs.searchFiles('m', '*.txt')).files.length, 2),
    async () => assert.equal((await fs.replaceInFiles(['m/a.txt'], 'needle', 'pin'))[0].success, true),
    () => fs.setFilePermissions('m/a.txt', { mode: '600' }),
    () => fs.moveFiles('m/a.txt', 'm/c.txt'),
    () => fs.deleteFile('m/c.txt'),
  ])
  await rejected(DaytonaNotFoundError, [
    () => fs.listFiles('m/none'), () => fs.getFileDetails('m/none'), () => fs.moveFiles('m/none', 'm/x'), () => fs.deleteFile('m/none'),
    () => fs.setFilePermissions('m/none', { mode: '600' }),
  ])
  await rejected(DaytonaError, [() => fs.downloadFile('m/none'), async () => { for await (const _ of await fs.downloadFileStream('m/none')); }])
}

async function processes({ process: p }) {
  await step(async () => assert.equal((await p.executeCommand('echo $A; exit 3', undefined, { A: 'b' })).exitCode, 3))
  await raises(TIMEOUT, () => p.executeCommand('sleep 60', undefined, undefined, 1))
  await step(async () => assert.equal((await p.codeRun('print(6 * 7)')).result.trim(), '42'))
  await step(() => p.createSession('m'))
  await raises(DaytonaConflictError, () => p.createSession('m'))
  const done = await step(() => p.executeSessionCommand('m', { command: 'echo out; echo err >&2' }))
  await step(async () => assert.equal((await p.getSessionCommand('m', done.cmdId)).exitCode, 0))
  await step(async () => assert.equal((await p.getSessionCommandLogs('m', done.cmdId)).stdout, 'out\n'))
  const asks = await step(() => p.executeSessionCommand('m', { command: 'read -r x; echo "got $x"', runAsync: true }))
  await step(() => p.sendSessionCommandInput('m', asks.cmdId, 'it\n'))
  await step(() => until(async () => (await p.getSessionCommand('m', asks.cmdId)).exitCode === 0, 'the command to read its input'))
  await step(async () => assert.ok((await p.listSessions()).some((s) => s.sessionId === 'm')))
  await step(async () => assert.ok((await p.getSession('m')).commands.length))
  await step(async () => assert.ok((await p.getEntrypointSession()).commands.length))
  await step(() => p.getEntrypointLogs())
  await rejected(DaytonaNotFoundError, [
    () => p.getSession('none'), () => p.getSessionCommand('m', 'none'), () => p.getSessionCommandLogs('m', 'none'), () => p.deleteSession('none'),
    () => p.executeSessionCommand('none', { command: 'true' }), () => p.sendSessionCommandInput('m', 'none', 'x'),
  ])
  await step(() => p.deleteSession('m'))
}

async function terminals({ process: p }) {
  let seen = ''
  const onData = (data) => { seen += new TextDecoder().decode(data) }
  const handle = await step(() => p.createPty({ id: 'm', cols: 100, rows: 30, onData }))
  await step(() => handle.waitForConnection())
  await step(() => assert.ok(handle.isConnected()))
  await step(async () => assert.equal((await handle.resize(90, 20)).cols, 90))
  await step(async () => assert.equal((await p.resizePtySession('m', 91, 21)).rows, 21))
  await step(async () => assert.equal((await p.getPtySessionInfo('m')).id, 'm'))
  await step(async () => assert.ok((await p.listPtySessions()).some((s) => s.id === 'm')))
  await raises(DaytonaError, () => p.createPty({ id: 'm', onData }))
  await step(() => handle.disconnect())
  const again = await step(() => p.connectPty('m', { onData }))
  await step(() => again.waitForConnection())
  await step(() => again.sendInput('stty size; exit 5\n'))
  await step(async () => assert.equal((await again.wait()).exitCode, 5))
  await step(() => assert.match(seen, /21 91/))
  await step(() => again.disconnect())
  await rejected(DaytonaError, [() => again.sendInput('x'), () => again.resize(80, 24), () => again.kill()])
  const other = await step(() => p.createPty({ id: 'm2', onData }))
  await step(() => other.kill())
  await step(() => p.createPty({ id: 'm3', onData }))
  await step(() => p.killPtySession('m3'))
  await rejected(DaytonaNotFoundError, [() => p.getPtySessionInfo('none'), () => p.killPtySession('none')])
  await rejected(DaytonaError, [() => p.resizePtySession('none', 80, 24), async () => (await p.connectPty('none', { onData })).waitForConnection()])
}

async function interpreter({ codeInterpreter: i }) {
  const context = await step(() => i.createContext('/tmp'))
  await step(async () => assert.equal((await i.runCode('print(6 * 7)', { context })).stdout, '42\n'))
  // A timeout ends a run here without an error: this SDK takes the frame that says "interrupted" for the end.
  await step(() => i.runCode('import time; time.sleep(60)', { context, timeout: 1 }))
  await step(async () => assert.ok((await i.listContexts()).some((c) => c.id === context.id)))
  await step(() => i.deleteContext(context))
  await raises(DaytonaNotFoundError, () => i.deleteContext(context))
  await raises(DaytonaError, () => i.runCode('1', { context }))
  await raises(DaytonaError, () => i.createContext('/no/such/directory'))
}

async function git(box) {
  const { git } = box
  const author = ['Ada', 'ada@example.org']
  const made = 'set -e; git init -q --bare -b main /tmp/m.git; git init -q -b main /tmp/ms; cd /tmp/ms; git config user.name A; git config user.email a@b.c; ' +
    'echo hello > README; git add .; git commit -qm first; git push -q /tmp/m.git main'
  await step(async () => assert.equal((await box.process.executeCommand(made)).exitCode, 0))
  await all([
    () => git.clone('/tmp/m.git', 'g'),
    async () => assert.equal((await git.status('g')).currentBranch, 'main'),
    () => box.fs.uploadFile(Buffer.from('x'), 'g/x'),
    () => git.add('g', ['x']),
    async () => assert.match((await git.commit('g', 'second', ...author)).sha, /^[0-9a-f]{40}$/),
    () => git.push('g'),
    () => git.pull('g'),
    () => git.createBranch('g', 'feature'),
    () => git.checkoutBranch('g', 'feature'),
    async () => assert.deepEqual((await git.branches('g')).branches.sort(), ['feature', 'main']),
    () => git.checkoutBranch('g', 'main'),
    () => git.deleteBranch('g', 'feature'),
    () => git.init('gi'),
    () => git.remoteAdd('gi', 'origin', '/tmp/m.git'),
    async () => assert.equal(await git.remoteGet('gi', 'origin'), '/tmp/m.git'),
    async () => assert.deepEqual((await git.remotes('gi')).remotes.map((r) => r.name), ['origin']),
    () => box.fs.uploadFile(Buffer.from('changed'), 'g/README'),
    () => git.restore('g', ['README']),
    () => git.reset('g', 'hard'),
    () => git.configureUser('Grace', 'grace@example.org'),
    async () => assert.equal(await git.getConfig('user.name'), 'Grace'),
    () => git.setConfig('core.pager', 'cat'),
    () => git.dangerouslyAuthenticate('ada', 'secret', 'git.invalid'),
    () => box.fs.createFolder('plain', '755'),
  ])
  await rejected(DaytonaError, [
    () => git.clone('/tmp/none.git', 'gx'), () => git.status('plain'), () => git.add('plain', ['x']), () => git.commit('plain', 'm', ...author),
    () => git.push('plain'), () => git.pull('plain'), () => git.createBranch('plain', 'b'), () => git.checkoutBranch('plain', 'b'),
    () => git.branches('plain'), () => git.deleteBranch('plain', 'b'), () => git.remoteAdd('plain', 'o', '/x'), () => git.remoteGet('plain', 'o'),
    () => git.remotes('plain'), () => git.restore('plain', ['x']), () => git.reset('plain'),
  ])
}

async function languageServer(box, server) {
  const path = 'proj/main.py'
  await step(() => box.fs.uploadFile(Buffer.from('class Greeter:\n    def greet(self):\n        pass\n\n\nGreeter().gr\n'), path))
  await raises(DaytonaError, () => server.documentSymbols(path))
  await all([
    () => server.start(),
    () => server.didOpen(path),
    () => until(async () => (await server.documentSymbols(path)).some((s) => s.name === 'Greeter'), "the document's symbols"),
    () => server.workspaceSymbols('Greeter'),
    () => server.sandboxSymbols('Greeter'),
    () => server.completions(path, { line: 5, character: 12 }),
    () => server.didClose(path),
    () => server.stop(),
  ])
  await rejected(DaytonaError, [
    () => server.didOpen(path), () => server.workspaceSymbols('x'), () => server.sandboxSymbols('x'), () => server.completions(path, { line: 0, character: 0 }),
  ])
}

async function sandbox(box) {
  await all([
    async () => assert.equal(await box.getUserHomeDir(), '/home/daytona'),
    async () => assert.equal(await box.getUserRootDir(), '/home/daytona'),
    async () => assert.equal(await box.getWorkDir(), '/home/daytona'),
    () => box.setLabels({ m: name }),
    () => box.setAutostopInterval(30),
    () => box.setAutoArchiveInterval(60),
    () => box.setAutoDeleteInterval(-1),
    () => box.setTtl(600),
    () => box.refreshData(),
    () => assert.equal(box.autoStopInterval, 30),
    () => box.refreshActivity(),
    () => box.updateEnv({ M: 'n' }),
    () => box.updateNetworkSettings({ networkBlockAll: false }),
    async () => assert.ok((await box.getMetricsLatest()).memTotal > 0),
    async () => assert.ok((await box.getPreviewLink(8000)).token),
    async () => box.expireSignedPreviewUrl(8000, (await box.getSignedPreviewUrl(8000, 60)).token),
    async () => {
      const access = await box.createSshAccess(5)
      assert.equal((await box.validateSshAccess(access.token)).valid, true)
      await box.revokeSshAccess(access.token)
    },
    async () => assert.match(await box.downloadUrl('m/s'), /^http/),
    async () => assert.match(await box.uploadUrl('m/s'), /^http/),
    () => box.rotateSigningKey(),
    () => box.resize({ cpu: box.cpu, memory: box.memory + 1 }),
    () => box.waitForResizeComplete(),
    async () => assert.deepEqual((await listed({ labels: { m: name } })).map((s) => s.id), [box.id]),
    async () => assert.equal((await daytona.get(box.id)).id, box.id),
  ])
  await rejected(DaytonaError, [
    () => box.fork(), () => daytona.fork(box), () => box.pause(), () => box.setAutoPauseInterval(5), () => box.recover(), () => box.getMetrics(),
    () => box.updateSecrets({ A: 'b' }), () => box.setAutostopInterval(-1), () => box.setAutoArchiveInterval(-1), () => box.setTtl(-5),
  ])
  await all([
    () => daytona.stop(box), () => box.waitUntilStopped(), () => daytona.start(box), () => box.waitUntilStarted(),
    () => raises(DaytonaError, () => box.archive()),
    async () => { await box.createSnapshot(name, 120); await daytona.snapshot.delete(await until(() => ifThere(daytona.snapshot.get(name)), 'the snapshot')) },
    () => box.stop(), () => box.archive(),
    () => until(async () => (await box.refreshData(), box.state === 'archived'), 'the archive', 60),
    () => box.start(),
  ])
}

async function resources() {
  const snapshot = await step(() => daytona.snapshot.create({ name: `${name}-s`, image: IMAGE }, { timeout: 60 }))
  await step(async () => assert.ok((await daytona.snapshot.list()).total > 0))
  await step(async () => assert.equal((await daytona.snapshot.get(snapshot.name)).id, snapshot.id))
  await raises(DaytonaConflictError, () => daytona.snapshot.create({ name: snapshot.name, image: IMAGE }))
  // An active snapshot is activated again without harm, or refused in words.
  await step(() => daytona.snapshot.activate(snapshot).catch((error) => { assert.match(error.message, /active/); ends.get('SnapshotService.activate').add('ok') }))
  await step(() => daytona.snapshot.delete(snapshot))
  await step(() => until(async () => !(await daytona.snapshot.list(1, 100)).items.some((s) => s.id === snapshot.id), 'the snapshot to be gone'))
  await rejected(DaytonaNotFoundError, [
    () => daytona.snapshot.get(snapshot.name), () => daytona.snapshot.delete(snapshot), () => daytona.snapshot.activate(snapshot),
  ])
  const volume = await step(() => daytona.volume.create(name))
  await raises(DaytonaError, () => daytona.volume.create(name))
  await step(() => until(async () => (await daytona.volume.get(name)).state === 'ready', 'the volume to be ready'))
  await step(async () => assert.ok((await daytona.volume.list()).some((v) => v.name === name)))
  await step(() => daytona.volume.delete(volume))
  await step(() => until(async () => !(await daytona.volume.list()).some((v) => v.name === name), 'the volume to be gone'))
  await rejected(DaytonaNotFoundError, [() => daytona.volume.get(name), () => daytona.volume.delete(volume)])
  const pool = await step(() => daytona.warmPool.create({ snapshot: 'default', pool: 1 }))
  await step(async () => assert.equal((await daytona.warmPool.update(pool.id, { pool: 2 })).pool, 2))
  await step(async () => assert.ok((await daytona.warmPool.list()).some((p) => p.id === pool.id)))
  await step(() => daytona.warmPool.delete(pool.id))
  await rejected(DaytonaError, [
    () => daytona.warmPool.create({ snapshot: 'none', pool: 1 }), () => daytona.warmPool.update(pool.id, { pool: 1 }), () => daytona.warmPool.delete(pool.id),
    () => daytona.secret.create({ name: 'a', value: 'b' }), () => daytona.secret.get('a'), () => daytona.secret.update('a', { value: 'c' }),
    () => daytona.secret.delete('a'), () => daytona.secret.list(),
  ])
}

async function images() {
  const directory = process.env.SCRATCH
  writeFileSync(`${directory}/requirements.txt`, 'numpy\n')
  writeFileSync(`${directory}/pyproject.toml`, '[project]\nname = "a"\nversion = "1"\ndependencies = ["numpy"]\n')
  writeFileSync(`${directory}/Dockerfile`, `FROM ${IMAGE}\n`)
  const python = Image.debianSlim('3.12')
  await all([
    () => assert.match(python.pipInstall('numpy').dockerfile, /pip/),
    () => python.pipInstallFromRequirements(`${directory}/requirements.txt`),
    () => python.pipInstallFromPyproject(`${directory}/pyproject.toml`, {}),
    () => Image.fromDockerfile(`${directory}/Dockerfile`),
    () => Image.base(IMAGE).addLocalDir(directory, '/d').addLocalFile(`${directory}/Dockerfile`, '/f'),
  ])
  await rejected(DaytonaNotFoundError, [
    () => Image.fromDockerfile(`${directory}/none`), () => python.pipInstallFromRequirements(`${directory}/none`),
    () => python.pipInstallFromPyproject(`${directory}/none`, {}),
  ])
  const image = Image.base(IMAGE).env({ MARK: name }).runCommands('echo built > /built').workdir('/tmp').dockerfileCommands(['LABEL a=b']).entrypoint(['sleep']).cmd(['infinity'])
  let log = ''
  const made = await step(() => daytona.create({ image }, { timeout: 150, onSnapshotCreateLogs: (chunk) => { log += chunk } }))
  await step(async () => assert.equal((await made.process.executeCommand('echo $MARK; cat /built')).result, `${name}\nbuilt\n`))
  await step(() => assert.ok(log))
  await step(() => daytona.delete(made))
  // v0.190's takes a failed build for no end, and waits until its time is up.
  const timeout = version.startsWith('0.190.') ? 15 : 150
  await raises(DaytonaError, () => daytona.create({ image: Image.base(IMAGE).runCommands(`echo ${name}; exit 3`), labels: { bad: name } }, { timeout }))
  // Its own alone: other suites run at the same time.
  await step(async () => { for (const s of await listed()) if (s.labels?.bad === name) await daytona.delete(s) })
}

// A sandbox that somebody else has deleted: everything that asks the server says that it is not found.
async function gone(box, server) {
  const { fs, process: p, git, codeInterpreter: i } = box
  const nothing = () => undefined
  await rejected(DaytonaNotFoundError, [
    () => daytona.get(box.id), () => daytona.start(box), () => daytona.stop(box), () => box.start(), () => box.stop(), () => box.archive(), () => box.recover(),
    () => box.refreshData(), () => box.refreshActivity(), () => box.setLabels({}), () => box.setAutostopInterval(5), () => box.setAutoArchiveInterval(5),
    () => box.setAutoDeleteInterval(5), () => box.setTtl(5), () => box.updateNetworkSettings({ networkBlockAll: true }), () => box.getPreviewLink(1),
    () => box.getSignedPreviewUrl(8000, 60), () => box.expireSignedPreviewUrl(8000, 'x'), () => box.createSshAccess(5), () => box.revokeSshAccess('x'),
    () => box.rotateSigningKey(), () => box.createSnapshot('x'), () => box.resize({ cpu: 1, memory: 3 }), () => box.updateEnv({ a: 'b' }),
    () => box.getMetricsLatest(), () => box.getUserHomeDir(), () => box.getWorkDir(), () => fs.createFolder('x', '755'), () => fs.findFiles('.', 'x'),
    () => fs.searchFiles('.', 'x'), () => fs.replaceInFiles(['x'], 'a', 'b'), () => p.listSessions(), () => p.getEntrypointSession(), () => p.getEntrypointLogs(),
    () => p.listPtySessions(), () => p.codeRun('1'), () => git.init('x'), () => git.configureUser('a', 'b'), () => git.getConfig('a.b'),
    () => git.setConfig('a.b', 'c'), () => git.dangerouslyAuthenticate('a', 'b'), () => server.start(), () => server.stop(), () => server.didClose('x'),
    () => i.listContexts(), () => box.waitUntilStarted(30), () => box.delete(), () => daytona.delete(box),
  ])
  await rejected(DaytonaError, [
    () => i.runCode('1'), () => p.createPty({ id: 'x', onData: nothing }),
    () => fs.uploadFile(Buffer.from('x'), 'x'), () => fs.uploadFiles([{ source: Buffer.from('x'), destination: 'x' }]),
    () => fs.uploadFileStream(Buffer.from('x'), 'x'), () => fs.downloadFiles([{ source: 'x' }]),
  ])
  await step(async () => assert.equal((await box.validateSshAccess('x')).valid, false))
}

async function wrongKey() {
  const other = client({ apiKey: 'dtn_wrong', apiUrl: process.env.DAYTONA_API_URL })
  await rejected(DaytonaError, [
    () => other.get('x'), () => listed(undefined, other), () => other.create(), () => other.snapshot.list(), () => other.volume.list(), () => other.warmPool.list(),
  ])
}

for (const cls of [Daytona, sdk.Sandbox, sdk.PtyHandle, Image]) record(cls, ABSENT)
class WarmPoolService {}
class SecretService {}
// Services that this version lacks are there, with nothing but what is in ABSENT.
const client = (config) => {
  const made = new Daytona(config)
  made.warmPool ??= new WarmPoolService()
  made.secret ??= new SecretService()
  return made
}
const daytona = client()
for (const service of [daytona.snapshot, daytona.volume, daytona.warmPool, daytona.secret]) record(service.constructor, ABSENT)
const box = await daytona.create({ language: 'python' })
const server = await box.createLspServer('python', 'proj')
for (const part of [box.fs, box.process, box.git, box.codeInterpreter, server]) record(part.constructor, ABSENT)
for (const part of [files, processes, terminals, interpreter, git]) await part(box)
await languageServer(box, server)
await sandbox(box)
await resources()
await images()
await wrongKey()
await step(() => daytona.delete(box))
const other = await daytona.create()
await step(() => other.delete())
await step(() => until(() => daytona.get(box.id).then(() => false, () => true), 'the sandbox to be gone'))
await gone(box, server)

const methods = publicMethods()
const untested = []
for (const method of [...methods].sort()) {
  const seen = ends.get(method) ?? new Set()
  if (!seen.has('ok') && !(method in NEVER_OK)) untested.push(`${method}: never with success`)
  if (!seen.has('error') && !(method in NEVER_WRONG)) untested.push(`${method}: never with an error`)
}
const stale = [...present, ...Object.keys(NEVER_OK).filter((method) => ends.get(method)?.has('ok'))]
console.log(JSON.stringify({ methods: methods.size, wrong, untested, stale }))
process.exit(wrong.length || untested.length ? 1 : 0)
