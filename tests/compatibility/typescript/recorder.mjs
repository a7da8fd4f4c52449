// Keeps how each call of a public method of the TypeScript SDK ended. What is public is read from the SDK's own declarations.
import { readFileSync, readdirSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { pathToFileURL } from 'node:url'

// The SDK is installed outside the repository; SDK_ROOT says where.
const entry = createRequire(pathToFileURL(`${process.env.SDK_ROOT}/`)).resolve('@daytonaio/sdk')
export const sdk = await import(pathToFileURL(entry).href).then((m) => m.default ?? m)

export const version = JSON.parse(readFileSync(join(dirname(entry), '..', 'package.json'), 'utf8')).version

export const ends = new Map()
// Names in the absent list of this version that the SDK has after all.
export const present = []
// Classes that are not called, and why.
const LEFT_OUT = new Set([
  'ObjectStorage', // what builds upload with; not exported
  'CodeRunParams', // has no methods
  'ComputerUse', 'Mouse', 'Keyboard', 'Screenshot', 'Display', 'Accessibility', 'RecordingService', // there is no screen
])
// Of the library, not for users.
const INTERNAL = new Set(['constructor', 'createAxiosInstance', 'processImageContext'])

// This version of the SDK has no such method.
export class Absent extends Error {}

// Every public method of every class that the SDK declares, as Class.method.
export function publicMethods() {
  const found = new Set()
  for (const file of readdirSync(dirname(entry)).filter((name) => name.endsWith('.d.ts'))) {
    const classes = readFileSync(join(dirname(entry), file), 'utf8').split(/^export declare (?:abstract )?class /m).slice(1)
    for (const text of classes) {
      const name = /^\w+/.exec(text)[0]
      if (LEFT_OUT.has(name)) continue
      const body = text.slice(0, text.indexOf('\n}'))
      for (const [, method] of body.matchAll(/^    (?:static )?([a-zA-Z]\w*)(?:<.*>)?\(/gm)) if (!INTERNAL.has(method)) found.add(`${name}.${method}`)
    }
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

// From here on calls of this class's methods are kept under its name. What of `absent`, names as Class.method, is of this class stands in for what it lacks.
export function record(cls, absent) {
  for (const holder of [cls.prototype, cls]) {
    for (const method of Object.getOwnPropertyNames(holder)) {
      if (typeof Object.getOwnPropertyDescriptor(holder, method).value === 'function' && !['constructor', 'prototype'].includes(method)) {
        holder[method] = wrapped(`${cls.name}.${method}`, holder[method])
      }
    }
  }
  for (const name of absent.filter((name) => name.startsWith(`${cls.name}.`))) {
    const method = name.split('.')[1]
    if (method in cls.prototype || method in cls) present.push(name)
    else cls.prototype[method] = () => { throw new Absent(name) }
  }
}
