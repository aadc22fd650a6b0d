/**
 * `npx tsx packages/backend-cuda/test/record-gpu-kernels.ts FOLDER`: writes down which ops have kernels for GPUs, for which types, as a TensorFlow with CUDA says of
 * itself. It needs no GPU: `peft setup cuda` fetches such a folder. The conformance kit on the CPU then refuses what a GPU could not run.
 */
import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import koffi from "koffi"
import { type TfType, tfTypes } from "../src/tf-runtime.ts"

const root = fileURLToPath(new URL("../", import.meta.url))
const names = new Map<number, TfType>(Object.entries(tfTypes).map(([name, value]) => [value, name as TfType]))

/** Types by attribute, for one kernel. */
type Kernel = Readonly<Record<string, readonly TfType[]>>

function registered(folder: string): (op: string) => Kernel[] {
  koffi.load(join(folder, "libtensorflow_framework.so.2"))
  const library = koffi.load(join(folder, "libtensorflow_cc.so.2"))
  const status = library.func("TF_NewStatus", "void *", [])()
  const list = library.func("TF_GetRegisteredKernelsForOp", "void *", ["str", "void *"])
  return (op) => {
    // TF_Buffer: data, length.
    const buffer = list(op, status)
    const length = Number(koffi.decode(buffer, 8, "size_t"))
    return messages(new Uint8Array(koffi.view(koffi.decode(buffer, "void *"), length)).slice(), 1).flatMap(kernelOf)
  }
}

/** A KernelDef of tensorflow/core/framework/kernel_def.proto, when it is one for GPUs. */
function kernelOf(kernel: Uint8Array): Kernel[] {
  const device = new TextDecoder().decode(messages(kernel, 2)[0])
  if (device !== "GPU" && device !== "DEFAULT") return []
  const constraints = messages(kernel, 3).map((constraint) => {
    const [name] = messages(constraint, 1)
    const [value = new Uint8Array()] = messages(constraint, 2)
    const [types = new Uint8Array()] = messages(value, 1).flatMap((list) => messages(list, 6))
    const known = varints(types).flatMap((type) => names.get(type) ?? [])
    return [new TextDecoder().decode(name), known] as const
  })
  return [Object.fromEntries(constraints)]
}

/** The fields of that number which are messages, texts or packed lists. */
function messages(bytes: Uint8Array, wanted: number): Uint8Array[] {
  const found: Uint8Array[] = []
  for (let at = 0; at < bytes.length; ) {
    const key = varint(bytes, at)
    const value = varint(bytes, key.end)
    const wire = key.value & 7
    if (wire !== 0 && wire !== 2) throw new Error(`a field of wire type ${wire}`)
    at = wire === 2 ? value.end + value.value : value.end
    if (wire === 2 && key.value >> 3 === wanted) found.push(bytes.subarray(value.end, at))
  }
  return found
}

function varint(bytes: Uint8Array, start: number): { value: number; end: number } {
  let value = 0
  for (let at = start, unit = 1; ; at++, unit *= 128) {
    const byte = bytes[at] as number
    value += (byte & 127) * unit
    if (byte < 128) return { value, end: at + 1 }
  }
}

function varints(bytes: Uint8Array): number[] {
  const found: number[] = []
  for (let at = 0; at < bytes.length; ) {
    const { value, end } = varint(bytes, at)
    found.push(value)
    at = end
  }
  return found
}

/** Every word in the sources that could be an op's name. */
function opsInSources(): string[] {
  const files = readdirSync(join(root, "src")).filter((name) => name.endsWith(".ts"))
  const texts = files.map((name) => readFileSync(join(root, "src", name), "utf8"))
  return [...new Set(texts.flatMap((text) => text.match(/\b[A-Z][A-Za-z0-9]+\b/g) ?? []))].sort()
}

const [folder] = process.argv.slice(2)
if (folder === undefined) throw new Error("which folder? One with libtensorflow_cc.so.2 of a TensorFlow with CUDA")
const kernelsOf = registered(folder)
const table = opsInSources().flatMap((op) => {
  const texts = kernelsOf(op)
    .filter((kernel) => Object.values(kernel).every((types) => types.length > 0))
    .map((kernel) => JSON.stringify(kernel))
  return texts.length === 0 ? [] : [`${JSON.stringify(op)}: [${[...new Set(texts)].sort().join(", ")}]`]
})
const target = join(root, "test", "fixtures", "gpu-kernels.json")
writeFileSync(target, `{\n  ${table.join(",\n  ")}\n}\n`)
console.log(`${table.length} ops: ${target}`)
