// What npm's ssh2 does to a server; prints one word for each thing that worked. Arguments: port, key, work directory, a local file.
import { readFileSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import { createRequire } from 'node:module'

const [port, key, work, file] = process.argv.slice(2)
const { Client } = createRequire(process.env.SSH2_FROM ?? import.meta.url)('ssh2')
const client = new Client()
const call = (on, name, ...args) => new Promise((ok, no) => on[name](...args, (error, value) => (error ? no(error) : ok(value))))
const collect = async (stream) => { let all = ''; for await (const part of stream) all += part; return all }

client.on('ready', async () => {
  try {
    const exec = await call(client, 'exec', 'cat; echo err >&2; exit 7')
    const [ended, err] = [new Promise((ok) => exec.on('exit', ok)), collect(exec.stderr)]
    exec.end('input')
    if ((await collect(exec)) === 'input' && (await err) === 'err\n' && (await ended) === 7) console.log('exec')

    const shell = await call(client, 'shell', { rows: 20, cols: 90, term: 'vt220' })
    shell.setWindow(33, 111, 0, 0)
    shell.end('stty size; exit 3\n')
    const status = new Promise((ok) => shell.on('exit', ok))
    if ((await collect(shell)).includes('33 111') && (await status) === 3) console.log('shell')

    // Listening from within the callback: the exit may come in the same packet as the answer, before an await goes on.
    const signal = await new Promise((ok, fail) =>
      client.exec('kill -TERM $$', (error, killed) =>
        error ? fail(error) : killed.on('exit', (code, name) => ok(name)).resume()
      )
    )
    if (signal === 'SIGTERM' || signal === 'TERM') console.log('signal')

    const sftp = await call(client, 'sftp')
    await call(sftp, 'fastPut', file, `${work}/ssh2`)
    await call(sftp, 'fastGet', `${work}/ssh2`, `${file}.back`)
    if (readFileSync(file).equals(readFileSync(`${file}.back`))) console.log('sftp')
    await call(sftp, 'ext_openssh_rename', `${work}/ssh2`, `${work}/ssh2.renamed`)
    if ((await call(sftp, 'readdir', work)).some((entry) => entry.filename === 'ssh2.renamed')) console.log('rename')

    const server = net.createServer((socket) => socket.end('hello')).listen(0, '127.0.0.1')
    await new Promise((ok) => server.on('listening', ok))
    const out = await call(client, 'forwardOut', '127.0.0.1', 1, '127.0.0.1', server.address().port)
    if ((await collect(out)) === 'hello') console.log('forwardOut')
    client.on('tcp connection', (info, accept) => accept().end('hello'))
    const far = await call(client, 'forwardIn', '127.0.0.1', 0)
    if ((await collect(net.connect(far, '127.0.0.1'))) === 'hello') console.log('forwardIn')
    server.close()
  } catch (error) {
    console.error(error)
  }
  client.end()
})
client.on('error', (error) => { console.error(error); process.exit(1) })
client.connect({ host: '127.0.0.1', port: Number(port), username: 'daytona', privateKey: readFileSync(key) })
