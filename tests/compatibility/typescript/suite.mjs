// The TypeScript SDK against a running instance; DAYTONA_API_URL and DAYTONA_API_KEY say where. Run by test_sdk_typescript.py.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pathToFileURL } from 'node:url'

// The SDK is installed outside the repository; SDK_ROOT says where.
const resolve = createRequire(pathToFileURL(`${process.env.SDK_ROOT}/`)).resolve
const { Daytona, DaytonaConflictError, DaytonaError, DaytonaNotFoundError } = await import(pathToFileURL(resolve('@daytonaio/sdk')).href).then((m) => m.default ?? m)

const daytona = new Daytona()
let sandbox

// Which methods of the toolbox's groups were called, whichever test did it; the last test asks what is left.
const called = new Map()
// What TypeScript calls private is there for JavaScript to see.
const PRIVATE = new Set(['makeFilePayload', 'execRequestOptions', 'extractMessageText', 'normalizeCloseEvent', 'createCloseError'])
function recorded(target) {
  const kind = Object.getPrototypeOf(target)
  const methods = Object.getOwnPropertyNames(kind).filter((name) => name !== 'constructor' && !name.startsWith('_') && typeof Object.getOwnPropertyDescriptor(kind, name).value === 'function')
  const left = called.get(kind.constructor.name) ?? new Set(methods)
  called.set(kind.constructor.name, left)
  return new Proxy(target, {
    get(object, name) {
      left.delete(name)
      const value = Reflect.get(object, name)
      return typeof value === 'function' ? value.bind(object) : value
    },
  })
}

async function eventually(condition, what) {
  const until = Date.now() + 30_000
  for (;;) {
    const value = await condition()
    if (value) return value
    assert.ok(Date.now() < until, `waited 30 s for ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

before(async () => {
  sandbox = await daytona.create({ language: 'typescript', envVars: { GREETING: 'hello' } })
  for (const group of ['fs', 'process', 'git', 'codeInterpreter']) sandbox[group] = recorded(sandbox[group])
})
after(async () => {
  await sandbox?.delete()
})

test('a sandbox tells what it is', async () => {
  assert.equal(sandbox.state, 'started')
  assert.ok(sandbox.id && sandbox.name && sandbox.organizationId)
  assert.ok(sandbox.cpu > 0 && sandbox.memory > 0 && sandbox.disk > 0)
  assert.equal(await sandbox.getUserHomeDir(), '/home/daytona')
  assert.equal(await sandbox.getWorkDir(), '/home/daytona')
})

test('commands', async () => {
  const answer = await sandbox.process.executeCommand('echo "$GREETING $A"; echo err >&2; exit 42', '/tmp', { A: 'b' })
  assert.equal(answer.exitCode, 42)
  assert.match(answer.result, /hello b\n/)
  assert.match(answer.result, /err\n/)
  await assert.rejects(sandbox.process.executeCommand('sleep 60', undefined, undefined, 1), /timeout|timed out/i)
})

test('code in TypeScript', async () => {
  const answer = await sandbox.process.codeRun('const n: number = 41; console.log(n + 1)')
  assert.deepEqual([answer.exitCode, answer.result.trim()], [0, '42'])
})

test('files', async () => {
  const content = randomBytes(1 << 20)
  await sandbox.fs.createFolder('ts', '755')
  await sandbox.fs.uploadFile(content, 'ts/a.bin')
  assert.ok(content.equals(await sandbox.fs.downloadFile('ts/a.bin')))
  await sandbox.fs.uploadFiles([{ source: Buffer.from('needle\n'), destination: 'ts/b.txt' }, { source: Buffer.from('hay\n'), destination: 'ts/c.txt' }])
  assert.deepEqual((await sandbox.fs.listFiles('ts')).map((f) => f.name).sort(), ['a.bin', 'b.txt', 'c.txt'])
  assert.equal((await sandbox.fs.getFileDetails('ts/a.bin')).size, 1 << 20)
  assert.deepEqual((await sandbox.fs.findFiles('ts', 'needle')).map((m) => m.line), [1])
  assert.equal((await sandbox.fs.searchFiles('ts', '*.txt')).files.length, 2)
  await sandbox.fs.replaceInFiles(['ts/b.txt'], 'needle', 'pin')
  await sandbox.fs.moveFiles('ts/b.txt', 'ts/d.txt')
  assert.equal((await sandbox.fs.downloadFile('ts/d.txt')).toString(), 'pin\n')
  await sandbox.fs.setFilePermissions('ts/d.txt', { mode: '600', owner: 'daytona', group: 'daytona' })
  await sandbox.fs.deleteFile('ts', true)
  await assert.rejects(sandbox.fs.downloadFile('ts/d.txt'))
})

test('sessions, synchronous and followed', async () => {
  const id = randomUUID()
  await sandbox.process.createSession(id)
  await sandbox.process.executeSessionCommand(id, { command: 'export A=kept' })
  const answer = await sandbox.process.executeSessionCommand(id, { command: 'echo $A' })
  assert.deepEqual([answer.exitCode, answer.output.trim()], [0, 'kept'])
  const started = await sandbox.process.executeSessionCommand(id, { command: 'for i in 1 2 3; do echo $i; sleep 0.1; done; echo e >&2', runAsync: true })
  let out = ''
  let err = ''
  await sandbox.process.getSessionCommandLogs(id, started.cmdId, (c) => (out += c), (c) => (err += c))
  assert.deepEqual([out, err], ['1\n2\n3\n', 'e\n'])
  assert.ok((await sandbox.process.listSessions()).some((s) => s.sessionId === id))
  await sandbox.process.deleteSession(id)
  await assert.rejects(sandbox.process.getSession(id), DaytonaNotFoundError)
})

test('a terminal', async () => {
  let text = ''
  const handle = await sandbox.process.createPty({ id: randomUUID(), cols: 100, rows: 30, onData: (d) => (text += new TextDecoder().decode(d)) })
  await handle.waitForConnection()
  await handle.sendInput('stty size; exit 5\n')
  const result = await handle.wait()
  await handle.disconnect()
  assert.equal(result.exitCode, 5)
  assert.match(text, /30 100/)
})

test('the interpreter', async () => {
  await sandbox.codeInterpreter.runCode('kept = 41')
  assert.equal((await sandbox.codeInterpreter.runCode('print(kept + 1)')).stdout, '42\n')
  assert.equal((await sandbox.codeInterpreter.runCode('raise ValueError("no")')).error.name, 'ValueError')
  const context = await sandbox.codeInterpreter.createContext('/tmp')
  assert.ok((await sandbox.codeInterpreter.listContexts()).some((c) => c.id === context.id))
  await sandbox.codeInterpreter.deleteContext(context)
})

test('git', async () => {
  await sandbox.git.init('ts-repo', false, 'main')
  await sandbox.fs.uploadFile(Buffer.from('x'), 'ts-repo/x')
  await sandbox.git.add('ts-repo', ['x'])
  const commit = await sandbox.git.commit('ts-repo', 'first', 'Ada', 'ada@example.org')
  assert.match(commit.sha, /^[0-9a-f]{40}$/)
  await sandbox.git.createBranch('ts-repo', 'feature')
  assert.deepEqual((await sandbox.git.branches('ts-repo')).branches.sort(), ['feature', 'main'])
})

test('files: streams, local files, several at once', async (t) => {
  const directory = await mkdtemp(join(tmpdir(), 'pinfold-'))
  t.after(() => rm(directory, { recursive: true }))
  const content = randomBytes(1 << 20)
  const local = join(directory, 'local')
  await writeFile(local, content)
  await sandbox.fs.uploadFile(local, 'streams/a.bin')
  const progress = []
  await sandbox.fs.uploadFileStream(Readable.from([content.subarray(0, 1000), content.subarray(1000)]), 'streams/b.bin', { onProgress: (p) => progress.push(p) })
  assert.ok(progress.length > 0)
  const pieces = []
  for await (const piece of await sandbox.fs.downloadFileStream('streams/b.bin')) pieces.push(piece)
  assert.ok(content.equals(Buffer.concat(pieces)))
  await sandbox.fs.downloadFile('streams/a.bin', `${local}-2`)
  assert.ok(content.equals(await readFile(`${local}-2`)))
  const several = await sandbox.fs.downloadFiles([{ source: 'streams/a.bin' }, { source: 'streams/none' }])
  assert.deepEqual(several.map((r) => Boolean(r.error)), [false, true])
  await sandbox.fs.createFolder('streams/deep/er', '755')
  assert.ok((await sandbox.fs.listFiles('streams', { depth: 2 })).some((f) => f.name === 'er'))
  await assert.rejects(sandbox.fs.getFileDetails('streams/none'), DaytonaNotFoundError)
})

test('sessions: input, logs, states, the entrypoint', async () => {
  const id = randomUUID()
  await sandbox.process.createSession(id)
  await assert.rejects(sandbox.process.createSession(id), DaytonaConflictError)
  const started = await sandbox.process.executeSessionCommand(id, { command: 'read x; echo got $x; echo e >&2', runAsync: true, suppressInputEcho: true })
  await sandbox.process.sendSessionCommandInput(id, started.cmdId, 'this')
  const command = await eventually(async () => {
    const seen = await sandbox.process.getSessionCommand(id, started.cmdId)
    return seen.exitCode !== undefined && seen
  }, 'the command to end')
  assert.equal(command.exitCode, 0)
  const logs = await sandbox.process.getSessionCommandLogs(id, started.cmdId)
  assert.deepEqual([logs.stdout, logs.stderr], ['got this\n', 'e\n'])
  assert.equal((await sandbox.process.getSession(id)).commands.length, 1)
  await sandbox.process.executeSessionCommand(id, { command: 'exit 4' })
  await assert.rejects(sandbox.process.executeSessionCommand(id, { command: 'true' }), DaytonaError)
  await sandbox.process.deleteSession(id)
  const entrypoint = await sandbox.process.getEntrypointSession()
  assert.equal(entrypoint.sessionId, 'entrypoint')
  assert.equal(typeof (await sandbox.process.getEntrypointLogs()).output, 'string')
})

test('terminals: size, environment, attaching, killing', async () => {
  const id = randomUUID()
  let text = ''
  const onData = (d) => (text += new TextDecoder().decode(d))
  const first = await sandbox.process.createPty({ id, cols: 100, rows: 30, cwd: '/tmp', envs: { A: 'b c' }, onData })
  await first.waitForConnection()
  await first.sendInput('echo "<$A>" $((40+2)); pwd\n')
  await eventually(() => text.includes('<b c> 42') && text.includes('/tmp'), 'the words of the terminal')
  await assert.rejects(sandbox.process.createPty({ id, onData }), DaytonaError)
  assert.equal((await first.resize(90, 20)).cols, 90)
  assert.equal((await sandbox.process.resizePtySession(id, 91, 21)).rows, 21)
  assert.equal((await sandbox.process.getPtySessionInfo(id)).cols, 91)
  assert.ok((await sandbox.process.listPtySessions()).some((s) => s.id === id))
  await first.disconnect()
  const second = await sandbox.process.connectPty(id, { onData })
  await second.waitForConnection()
  await second.sendInput('echo again-$((40+3)); exit 3\n')
  assert.equal((await second.wait()).exitCode, 3)
  assert.match(text, /again-43/)
  const killed = await sandbox.process.createPty({ id, onData })
  await killed.waitForConnection()
  await sandbox.process.killPtySession(id)
  assert.equal((await killed.wait()).exitCode, 137)
  const other = await sandbox.process.createPty({ id, onData })
  await other.waitForConnection()
  await other.kill()
  assert.equal((await other.wait()).exitCode, 137)
})

test('the interpreter: streams, contexts, timeouts', async () => {
  let out = ''
  const result = await sandbox.codeInterpreter.runCode('import sys; print(1); print("e", file=sys.stderr)', { onStdout: (m) => (out += m.output) })
  assert.deepEqual([result.stdout, result.stderr, out], ['1\n', 'e\n', '1\n'])
  const context = await sandbox.codeInterpreter.createContext('/tmp')
  const apart = await sandbox.codeInterpreter.runCode('import os; print(os.getcwd(), "kept" in globals(), os.environ["E"])', { context, envs: { E: '1' } })
  assert.equal(apart.stdout, '/tmp False 1\n')
  // This SDK takes an interruption for an end; what matters is that it comes.
  const began = Date.now()
  await sandbox.codeInterpreter.runCode('import time; time.sleep(60)', { context, timeout: 1 })
  assert.ok(Date.now() - began < 10_000)
  await sandbox.codeInterpreter.deleteContext(context)
})

test('git: remotes, both ways, branches, states, configuration', async () => {
  const base = `/tmp/${randomUUID()}`
  const [work, bare, other] = [`${base}/work`, `${base}/bare`, `${base}/other`]
  const author = ['Ada', 'ada@example.org']
  await sandbox.git.init(bare, true, 'main')
  await sandbox.git.init(work, false, 'main')
  await sandbox.git.configureUser(...author, 'local', work)
  assert.equal(await sandbox.git.getConfig('user.name', 'local', work), 'Ada')
  await sandbox.git.setConfig('a.b', 'c', 'local', work)
  await sandbox.fs.uploadFile(Buffer.from('one\n'), `${work}/f`)
  await sandbox.git.add(work, ['f'])
  const first = await sandbox.git.commit(work, 'first', ...author)
  await sandbox.git.remoteAdd(work, 'origin', bare)
  assert.deepEqual((await sandbox.git.remotes(work)).remotes, [{ name: 'origin', url: bare }])
  assert.equal(await sandbox.git.remoteGet(work, 'origin'), bare)
  await sandbox.git.push(work, undefined, undefined, undefined, undefined, true)
  await sandbox.git.clone(bare, other, 'main')
  await sandbox.fs.uploadFile(Buffer.from('two\n'), `${work}/f`)
  assert.deepEqual((await sandbox.git.status(work)).fileStatus.map((f) => [f.name, f.worktree]), [['f', 'Modified']])
  await sandbox.git.restore(work, ['f'])
  await sandbox.git.commit(work, 'second', ...author, true)
  await sandbox.git.push(work)
  await sandbox.git.pull(other)
  await sandbox.git.reset(other, 'hard', first.sha)
  assert.equal((await sandbox.git.status(other)).behind, 1)
  await sandbox.git.createBranch(work, 'side')
  await sandbox.git.checkoutBranch(work, 'main')
  await sandbox.git.deleteBranch(work, 'side')
  assert.deepEqual((await sandbox.git.branches(work)).branches, ['main'])
  await assert.rejects(sandbox.git.checkoutBranch(work, 'none'), DaytonaNotFoundError)
  await sandbox.git.dangerouslyAuthenticate('u', 'p', 'git.example.org')
})

test('language servers', async () => {
  await sandbox.fs.uploadFile(Buffer.from('export class Counter {\n  increment() {}\n}\n\nnew Counter().incr\n'), 'tslsp/main.ts')
  const server = recorded(await sandbox.createLspServer('typescript', 'tslsp'))
  await server.start()
  await server.didOpen('tslsp/main.ts')
  const named = async (symbols) => (await symbols).some((s) => s.name === 'Counter')
  await eventually(() => named(server.documentSymbols('tslsp/main.ts')), 'the class among the symbols of the document')
  await eventually(() => named(server.sandboxSymbols('Counter')), 'the class among the symbols of the project')
  assert.ok(await named(server.workspaceSymbols('Counter')))
  const found = await server.completions('tslsp/main.ts', { line: 4, character: 18 })
  assert.ok(found.items.some((item) => item.label.startsWith('increment')))
  await server.didClose('tslsp/main.ts')
  await server.stop()
})

test('environment and metrics', async () => {
  await sandbox.updateEnv({ LATER: '1' })
  assert.equal((await sandbox.process.executeCommand('echo $LATER')).result, '1\n')
  const metrics = await sandbox.getMetricsLatest()
  assert.ok(metrics.memTotal > metrics.memUsed && metrics.memUsed > 0)
})

test('a desktop that is not there says so', async () => {
  const { computerUse } = sandbox
  for (const call of [
    () => computerUse.start(), () => computerUse.getStatus(), () => computerUse.mouse.getPosition(), () => computerUse.keyboard.type('x'),
    () => computerUse.screenshot.takeFullScreen(), () => computerUse.display.getInfo(), () => computerUse.recording.start(),
  ]) await assert.rejects(call(), (error) => error instanceof DaytonaError && /computer use|ffmpeg/.test(error.message))
  assert.deepEqual((await computerUse.recording.list()).recordings, [])
})

test('labels, intervals, listing', async () => {
  const mark = randomUUID()
  await sandbox.setLabels({ mark })
  await sandbox.setAutostopInterval(30)
  await sandbox.refreshData()
  assert.equal(sandbox.autoStopInterval, 30)
  const found = []
  for await (const s of daytona.list({ labels: { mark } })) found.push(s.id)
  assert.deepEqual(found, [sandbox.id])
  await sandbox.refreshActivity()
})

test('links and tokens', async () => {
  const link = await sandbox.getPreviewLink(8080)
  assert.ok(link.url && link.token)
  assert.ok((await sandbox.getSignedPreviewUrl(8080, 60)).url)
  const access = await sandbox.createSshAccess(5)
  assert.equal((await sandbox.validateSshAccess(access.token)).valid, true)
})

test('stop and start', async () => {
  const other = await daytona.create()
  try {
    await other.stop()
    assert.equal(other.state, 'stopped')
    await other.start()
    assert.equal((await other.process.executeCommand('echo up')).result, 'up\n')
  } finally {
    await other.delete()
  }
})

test('the flow of the SDKs of 2025: an image by name', async () => {
  const made = await daytona.create({ image: process.env.SMALL_IMAGE }, { timeout: 120 })
  try {
    assert.equal((await made.process.executeCommand('echo from an image')).result, 'from an image\n')
  } finally {
    await made.delete()
  }
})

test('what is missing is not found', async () => {
  await assert.rejects(daytona.get('no-such-sandbox'), DaytonaNotFoundError)
})

test('every method of the toolbox was called', () => {
  const left = Object.fromEntries([...called].map(([kind, names]) => [kind, [...names].sort()]))
  for (const [kind, names] of Object.entries(left)) assert.deepEqual(names.filter((name) => !PRIVATE.has(name)), [], kind)
  assert.equal(called.size, 5)
})
