/** Adapters on Node's disk. */
import { nodeFiles } from "@peftjs/safetensors/node"
import type { AdapterFormat } from "./method.ts"
import type { LoadAdapterOptions, LoadReport } from "./peft/load.ts"
import { loadAdapter as load } from "./peft/load.ts"
import { saveAdapter as save } from "./peft/save.ts"
import type { Model } from "./view.ts"

/** Writes an adapter to a folder, as `saveAdapter` of core does. */
export function saveAdapter(
  model: Model,
  dir: string,
  options: { name?: string; format?: AdapterFormat } = {},
): Promise<void> {
  return save(model, nodeFiles(dir), options)
}

/** Loads an adapter from a folder, as `loadAdapter` of core does. */
export function loadAdapter(
  model: Model,
  dir: string,
  options: LoadAdapterOptions,
): Promise<{ model: Model; report: LoadReport }> {
  return load(model, nodeFiles(dir), options)
}
