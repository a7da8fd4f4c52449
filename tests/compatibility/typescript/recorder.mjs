// Keeps how each call of a public method of the TypeScript SDK ended. What is public is read from the SDK's own declarations.
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

// The SDK is installed outside the repository; SDK_ROOT says where.
const entry = createRequire(pathToFileURL(`${process.env.SDK_ROOT}/`)).resolve('@daytonaio/sdk')
export const sdk = await import(pathToFileURL(entry).href).then((m) => m.default ?? m)

export const ends = new Map()
const FILES = ['Daytona', 'Sandbox', 'FileSystem', 'Process', 'PtyHandle', 'Git', 'CodeInterpreter', 'LspServer', 'Snapshot', 'Volume', 'WarmPool', 'Secret', 'Image']
// Of the library, not for users.
const INTERNAL = new Set(['constructor', 'createAxiosInstance', 'processImageContext'])

// Every public method, as File.method.
export function publicMethods() {
  const found = new Set()
  for (const file of FILES) {
    const text = readFileSync(join(dirname(entry), `${file}.d.ts`), 'utf8')
    for (const [, name] of text.matchAll(/^    (?:static )?([a-zA-Z]\w*)\(/gm)) if (!INTERNAL.has(name)) found.add(`${file}.${name}`)
  }
  return found
}

function keep(name, end) {
  if (!ends.has(name)) ends.set(name, new Set())
  ends.get(name).add(end)
}

function wrapped(name, method) {
  return function (...values) {
    const failed = (error) => {
      keep(name, 'error')
      throw error
    }
    let result
    try {
      result = method.apply(this, values)
    } catch (error) {
      failed(error)
    }
    if (typeof result?.then === 'function') return result.then((value) => (keep(name, 'ok'), value), failed)
    if (typeof result?.[Symbol.asyncIterator] === 'function') return iterated(name, result, failed)
    keep(name, 'ok')
    return result
  }
}

async function* iterated(name, items, failed) {
  try {
    yield* items
  } catch (error) {
    failed(error)
  }
  keep(name, 'ok')
}

// From here on calls of this class's methods are kept under this name.
export function record(file, cls) {
  for (const holder of [cls.prototype, cls]) {
    for (const method of Object.getOwnPropertyNames(holder)) {
      if (typeof Object.getOwnPropertyDescriptor(holder, method).value === 'function' && !['constructor', 'prototype'].includes(method)) {
        holder[method] = wrapped(`${file}.${method}`, holder[method])
      }
    }
  }
}
