/**
 * TensorFlow from a recording: every call that a program makes is written down with its result, and played again where there is no TensorFlow.
 * A call that differs from the recorded one in anything fails: the kernels have changed, and record-trace.ts has to run again.
 */
import type { TfAttr, TfHandle, TfRuntime, TfTensor, TfType } from "../src/tf-runtime.ts"
import { viewAs } from "../src/tf-types.ts"

type Result = readonly [TfHandle, TfType, readonly number[]]

/** One call and what it gave; data in base64. */
export type Call =
  | { readonly create: readonly [TfType, readonly number[], string]; readonly gave: TfHandle }
  | {
      readonly op: string
      readonly with: Readonly<Record<string, TfAttr>>
      readonly of: readonly TfHandle[]
      readonly gave: readonly Result[]
    }
  | { readonly read: TfHandle; readonly gave: string }
  | { readonly delete: TfHandle }

export interface Trace {
  /** TensorFlow's version. */
  readonly version: string
  readonly calls: readonly Call[]
}

const encode = (data: ArrayBufferView): string =>
  Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString("base64")
const decode = (type: TfType, text: string): ArrayBufferView =>
  viewAs(type, new Uint8Array(Buffer.from(text, "base64")).buffer)

/** Hands every call on and writes it down. Handles are numbered as they come, so that two recordings of one program are equal. */
export function recording(runtime: TfRuntime): { runtime: TfRuntime; trace: () => Trace } {
  const calls: Call[] = []
  const numbers = new Map<TfHandle, number>()
  let made = 0
  const number = (handle: TfHandle): number => {
    numbers.set(handle, ++made)
    return made
  }
  const known = (handle: TfHandle): number => numbers.get(handle) as number
  return {
    trace: () => ({ version: runtime.version, calls }),
    runtime: {
      ...runtime,
      createTensor(type, shape, data) {
        const tensor = runtime.createTensor(type, shape, data)
        calls.push({ create: [type, shape, encode(data)], gave: number(tensor.handle) })
        return tensor
      },
      executeOp(name, attributes, inputs, outputs) {
        const of = inputs.map(known)
        const results = runtime.executeOp(name, attributes, inputs, outputs)
        const gave = results.map(({ handle, type, shape }): Result => [number(handle), type, shape])
        calls.push({ op: name, with: attributes, of, gave })
        return results
      },
      read(tensor) {
        const data = runtime.read(tensor)
        calls.push({ read: known(tensor.handle), gave: encode(data) })
        return data
      },
      delete(handle) {
        runtime.delete(handle)
        calls.push({ delete: known(handle) })
      },
    },
  }
}

/** Plays a recording; `rest` tells how many calls are left. */
export function playing({ version, calls }: Trace): { runtime: TfRuntime; rest: () => number } {
  let at = 0
  const alive = new Set<TfHandle>()
  const next = (made: object): Call => {
    const call = calls[at]
    const { gave: _, ...expected } = (call ?? {}) as { gave?: unknown }
    if (call === undefined || JSON.stringify(made) !== JSON.stringify(expected))
      throw new Error(
        `call ${at} of the recording is ${JSON.stringify(expected).slice(0, 300)}, and ${JSON.stringify(made).slice(0, 300)} was called: run record-trace.ts when the kernels have changed`,
      )
    at++
    return call
  }
  const cpu = { name: "/job:localhost/replica:0/task:0/device:CPU:0", kind: "CPU" } as const
  return {
    rest: () => calls.length - at,
    runtime: {
      name: "a recording",
      version,
      devices: [cpu],
      device: cpu,
      createTensor(type, shape, data) {
        const { gave } = next({ create: [type, shape, encode(data)] }) as { gave: TfHandle }
        alive.add(gave)
        return { handle: gave, type, shape }
      },
      executeOp(name, attributes, inputs) {
        const { gave } = next({ op: name, with: attributes, of: inputs }) as { gave: readonly Result[] }
        return gave.map(([handle, type, shape]): TfTensor => {
          alive.add(handle)
          return { handle, type, shape }
        })
      },
      read: ({ handle, type }) => decode(type, (next({ read: handle }) as { gave: string }).gave),
      delete(handle) {
        next({ delete: handle })
        alive.delete(handle)
      },
      count: () => alive.size,
    },
  }
}
