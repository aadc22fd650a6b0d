/** Adapters of public repositories, on layers of the shapes their tensors ask for: every tensor is used, and written back as it was. */
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { type Backend, bindModel, type Model, type Site, uploadDense, type Weight } from "@peftjs/core"
import { loadAdapter, saveAdapter } from "@peftjs/core/node"
import { lora } from "@peftjs/lora"
import { openSafetensors, type TensorSource, toFloat32 } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import { type Context, readJson } from "../programs.ts"

type Entry = { dir: string; tensors: number; other_keys: string[] }

export async function adapterFiles(context: Context): Promise<void> {
  const folder = join(context.shared, "corpus/adapters")
  const backend = await cpu()
  for (const { dir, tensors, other_keys } of readJson<Entry[]>(folder, "index.json")) {
    const before = await tensorsIn(join(folder, dir))
    const loaded = await loadAdapter(modelFor(before, backend), join(folder, dir), { methods: [lora], strict: false })
    const { missing, unexpected } = loaded.report
    await saveAdapter(loaded.model, join(context.folder, dir))
    const after = await tensorsIn(join(context.folder, dir))
    const changed: string[] = []
    for (const name of after.tensors.keys()) if (!(await equal(before, after, name))) changed.push(name)
    const fine =
      missing.length === 0 &&
      String(unexpected) === String(other_keys) &&
      changed.length === 0 &&
      after.tensors.size === tensors - other_keys.length
    const figures = `${after.tensors.size} of ${tensors} tensors; not of these layers: ${unexpected.join(", ") || "none"}`
    context.expect(`${dir} loads and is written back`, fine, [figures, ...missing, ...changed].join("; "))
  }
}

async function tensorsIn(folder: string): Promise<TensorSource> {
  return openSafetensors(await nodeFiles(folder).open("adapter_model.safetensors"))
}

async function equal(before: TensorSource, after: TensorSource, name: string): Promise<boolean> {
  if (!before.tensors.has(name)) return false
  const [was, now] = [await before.read(name), await after.read(name)]
  const [a, b] = [toFloat32(was.dtype, was.data), toFloat32(now.dtype, now.data)]
  return String(was.shape) === String(now.shape) && a.every((x, i) => Object.is(x, b[i]))
}

/** A model that only has layers. Those of one shape share a weight of zeros: nothing is computed. */
function modelFor(file: TensorSource, backend: Backend): Model {
  const bases = new Map<string, Weight>()
  const sites = new Map<string, Site>()
  for (const [name, { shape }] of file.tensors) {
    if (!name.endsWith(".lora_A.weight")) continue
    const path = name.slice("base_model.model.".length, -".lora_A.weight".length)
    const [width, out] = [shape[1] as number, file.tensors.get(name.replace("lora_A", "lora_B"))?.shape[0] as number]
    const key = `${out}x${width}`
    const base = bases.get(key) ?? uploadDense(backend, new Float32Array(out * width), "f32", [out, width])
    bases.set(key, base)
    sites.set(path, { path, kind: "linear", in: width, out, param: `${path}.weight`, base })
  }
  const params = new Map([...sites.values()].map((site) => [site.param, site.base]))
  const never = (): never => {
    throw new Error("this model only has layers")
  }
  const [head] = sites.keys()
  return bindModel({
    backend,
    config: {},
    name: "",
    sites,
    params,
    head: head as string,
    hidden: never,
    makeCache: never,
  })
}
