// The TypeScript SDK against a running instance; DAYTONA_API_URL and DAYTONA_API_KEY say where. Run by test_sdk_typescript.py.
import assert from 'node:assert/strict'
import { after, before, test } from 'node:test'
import { randomBytes, randomUUID } from 'node:crypto'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

// The SDK is installed outside the repository; SDK_ROOT says where.
const resolve = createRequire(pathToFileURL(`${process.env.SDK_ROOT}/`)).resolve
const { Daytona, DaytonaNotFoundError, Image } = await import(pathToFileURL(resolve('@daytonaio/sdk')).href).then((m) => m.default ?? m)

const daytona = new Daytona()
let sandbox

before(async () => {
  sandbox = await daytona.create({ language: 'typescript', envVars: { GREETING: 'hello' } })
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

test('an image with a local file', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'pinfold-'))
  const content = randomUUID()
  await writeFile(join(directory, 'file'), content)
  const image = Image.base(process.env.SMALL_IMAGE).addLocalFile(join(directory, 'file'), '/added')
  const made = await daytona.create({ image }, { timeout: 100 })
  try {
    assert.equal((await made.process.executeCommand('cat /added')).result, content)
  } finally {
    await made.delete()
    await rm(directory, { recursive: true })
  }
})

test('what is missing is not found', async () => {
  await assert.rejects(daytona.get('no-such-sandbox'), DaytonaNotFoundError)
})
