// Attaches to the terminal argv[3] of the sandbox argv[2] with the newest SDK, says so, and prints what it gets until standard input ends.
import { createRequire } from 'node:module'
import { pathToFileURL } from 'node:url'

// The SDK is installed outside the repository; SDK_ROOT says where.
const entry = createRequire(pathToFileURL(`${process.env.SDK_ROOT}/`)).resolve('@daytonaio/sdk')
const { Daytona } = await import(pathToFileURL(entry).href).then((m) => m.default ?? m)
const sandbox = await new Daytona().get(process.argv[2])
const terminal = await sandbox.process.connectPty(process.argv[3], { onData: (bytes) => void process.stdout.write(bytes) })
await terminal.waitForConnection()
console.log('attached')
process.stdin.on('end', () => process.exit(0)).resume()
