// What programs of 2025 do with the TypeScript SDK of their time (0.111). Run by test_sdk_every_method.py.
import assert from 'node:assert/strict'
import http from 'node:http'
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

const resolve = createRequire(pathToFileURL(`${process.env.SDK_ROOT}/`)).resolve
const { Daytona } = await import(pathToFileURL(resolve('@daytonaio/sdk')).href).then((m) => m.default ?? m)
const daytona = new Daytona()

// Names below localhost are the loopback (RFC 6761, section 6.3); not every resolver knows.
function page(url, token) {
  const { host, port } = new URL(url)
  return new Promise((done, failed) => {
    const request = http.get({ host: '127.0.0.1', port, path: '/', headers: { host, 'x-daytona-preview-token': token } }, (answer) => {
      let body = ''
      answer.on('data', (chunk) => { body += chunk }).on('end', () => done([answer.statusCode, body]))
    })
    request.on('error', failed)
  })
}

let box = await daytona.create({ image: process.env.SMALL_IMAGE, resources: { cpu: 1, memory: 1 } })
try {
  const answer = await box.process.executeCommand('echo $A; exit 3', '/tmp', { A: 'image' }, 60)
  assert.deepEqual([answer.exitCode, answer.result], [3, 'image\n'])
} finally {
  await box.delete()
}

box = await daytona.create({ language: 'typescript', labels: { flow: '2025-ts' } })
try {
  await box.process.createSession('s1')
  await box.fs.uploadFile(Buffer.from('a page\n'), 'www/index.html')
  // Both spellings of the flag were in use.
  const started = await box.process.executeSessionCommand('s1', { command: 'cd www && python3 -m http.server 3000', async: true })
  assert.ok(started.cmdId)
  const link = await box.getPreviewLink(3000)
  const deadline = Date.now() + 60000
  for (;;) {
    const [status, body] = await page(link.url, link.token)
    if (status === 200) {
      assert.equal(body, 'a page\n')
      break
    }
    assert.ok(Date.now() < deadline, `waited 60 s for the page, last status ${status}`)
    await new Promise((later) => setTimeout(later, 100))
  }
  assert.equal((await box.process.getSessionCommand('s1', started.cmdId)).exitCode, undefined)
  await box.process.createSession('s2')
  const done = await box.process.executeSessionCommand('s2', { command: 'echo from a session' })
  assert.equal(done.exitCode, 0)
  const logs = await box.process.getSessionCommandLogs('s2', done.cmdId)
  assert.match(typeof logs === 'string' ? logs : (logs.output ?? logs.stdout), /from a session/)
  assert.deepEqual((await daytona.list({ flow: '2025-ts' })).items.map((s) => s.id), [box.id])
  await box.stop()
  await box.start()
  assert.equal((await box.process.executeCommand('cat www/index.html')).result, 'a page\n')
  await assert.rejects(daytona.get('nope'))
  await assert.rejects(box.fs.downloadFile('none'))
} finally {
  await box.delete()
}
