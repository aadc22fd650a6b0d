/** Writing an adapter as Hugging Face PEFT spells it. */
import type { Dtype, FileSink, TensorArray } from "@peftjs/safetensors"
import { writeSafetensors, writeText } from "@peftjs/safetensors"
import { adapterOf } from "../adapt.ts"
import { type DType, fileDtypes, hostArray } from "../dtype.ts"
import { PeftError } from "../errors.ts"
import type { AdapterFormat, PeftConfig } from "../method.ts"
import type { Site } from "../model.ts"
import { trainedOverlays, wholeShape } from "../overlays.ts"
import { shortestSuffixes } from "../targets.ts"
import type { Tensor } from "../tensor.ts"
import type { Adapter, Model } from "../view.ts"
import { weightAt } from "../view.ts"
import type { Weight } from "../weight.ts"
import { configFile, formatConfig, keyPrefix, newConfig, savedWithBase, sharedPrefix, weightsFile } from "./config.ts"

const dtypeNames: Readonly<Partial<Record<DType, Dtype>>> = fileDtypes

interface Lazy {
  readonly dtype: Dtype
  readonly shape: readonly number[]
  data(): Promise<TensorArray>
}

/**
 * Writes adapter_model.safetensors, adapter_config.json and README.md. An adapter not called "default" goes to a subfolder of its name,
 * as in PEFT. A loaded adapter keeps its config's spelling and unknown keys, unless another `format` than its own is asked for.
 * Throws E_EMPTY_ADAPTER, E_NO_FORMAT, E_ADAPTER_NAME, and what the sink throws; every file is written whole or not at all.
 */
export async function saveAdapter(
  model: Model,
  sink: FileSink,
  options: { name?: string; format?: AdapterFormat } = {},
): Promise<void> {
  const adapter = adapterOf(model, options.name)
  const format = options.format ?? formatOf(adapter)
  const config = configOf(model, adapter, format)
  const tensors = tensorsOf(model, adapter, format)
  const folder = adapter.name === "default" ? "" : `${adapter.name}/`
  await writeSafetensors(sink, `${folder}${weightsFile}`, tensors, { format: "pt" })
  await writeText(sink, `${folder}${configFile}`, formatConfig(config))
  await writeText(sink, `${folder}README.md`, modelCard(config, format))
}

/** The config that `saveAdapter` writes. */
export function configOf(model: Model, adapter: Adapter, format: AdapterFormat = formatOf(adapter)): PeftConfig {
  if (adapter.loaded && format === adapter.method.format) return { ...adapter.loaded, inference_mode: true }
  const sites = [...adapter.sites.keys()].map((path) => model.sites.get(path) as Site)
  const targets = shortestSuffixes(model, [...adapter.sites.keys()])
  return newConfig(format, format.write(adapter.method, sites), model.name, targets, adapter.overlayOptions)
}

function formatOf({ method }: Adapter): AdapterFormat {
  if (method.format) return method.format
  throw new PeftError(
    "E_NO_FORMAT",
    `[core] the method ${method.name} does not say how it is written to disk; give it a format`,
  )
}

function tensorsOf(model: Model, adapter: Adapter, format: AdapterFormat): [string, Lazy][] {
  const found = [...adapter.sites].flatMap(([path, state]) => {
    const site = model.sites.get(path) as Site
    const own = Object.entries(state.params)
      .filter(([, p]) => p.saved)
      .flatMap(([name, p]) =>
        [format.tensorName(name, site.kind), ...(format.copies?.(name, site.kind) ?? [])].map(
          (spelled): [string, Lazy] => [`${keyPrefix}${path}.${spelled}`, lazy([p.value])],
        ),
      )
    if (!savedWithBase.includes(path.split(".").at(-1) as string)) return own
    const base = baseTensors(state.base ?? weightAt(model.definition, model.view, site))
    return base ? [...own, [`${keyPrefix}${path}.base_layer.weight`, lazy(base)] as [string, Lazy]] : own
  })
  const beside = trainedOverlays(model, adapter).map(({ name, tensors }): [string, Lazy] => [
    `${keyPrefix}${name}`,
    lazy(tensors),
  ])
  if (found.length + beside.length > 0) return [...sharedOf(adapter, format), ...found, ...beside]
  throw new PeftError("E_EMPTY_ADAPTER", `[core] the adapter "${adapter.name}" has no tensors to save`)
}

/** Tensors shared by all sites, under the names the method gives them. */
function sharedOf({ shared }: Adapter, { sharedName }: AdapterFormat): [string, Lazy][] {
  if (!sharedName) return []
  return Object.entries(shared).map(([name, value]) => [`${sharedPrefix}${sharedName(name)}`, lazy([value])])
}

function baseTensors(weight: Weight): Tensor[] | undefined {
  const tensors = weight.parts.flatMap((part) => (part.tensor ? [part.tensor] : []))
  return tensors.length === weight.parts.length ? tensors : undefined
}

function lazy(parts: readonly Tensor[]): Lazy {
  const [first] = parts as [Tensor]
  const dtype = dtypeNames[first.dtype]
  if (!dtype) throw new PeftError("E_INTERNAL", `internal: a parameter of type ${first.dtype}`)
  return {
    dtype,
    shape: wholeShape(parts),
    async data() {
      if (parts.length === 1) return (await first.data()) as TensorArray
      const whole = hostArray(
        first.dtype,
        parts.reduce((n, t) => n + t.size, 0),
      )
      let at = 0
      for (const part of parts) {
        whole.set(await part.data(), at)
        at += part.size
      }
      return whole as TensorArray
    },
  }
}

const peftUsage = `in the format of Hugging Face PEFT:

    from peft import PeftModel
    model = PeftModel.from_pretrained(base_model, "path/of/this/folder")
`

function modelCard(config: PeftConfig, { usage }: AdapterFormat): string {
  const base = String(config.base_model_name_or_path ?? "")
  const method = String(config.peft_type).toLowerCase()
  return `---
base_model: ${JSON.stringify(base)}
library_name: ${usage === undefined ? "peft" : "peftjs"}
pipeline_tag: text-generation
tags:
- base_model:adapter:${base}
- ${method}
---

An adapter for ${base || "its base model"}, ${usage ?? peftUsage}`
}
