/** `peft spectrum`: the singular values of what fine-tuning has added to a model, per projection: a table and a plot. */
import { existsSync } from "node:fs"
import { mkdir, writeFile } from "node:fs/promises"
import { dirname, join } from "node:path"
import { adapterOf, type Backend, type Model, PeftError } from "@peftjs/core"
import { loadAdapter } from "@peftjs/core/node"
import { loadCausalLM } from "@peftjs/models"
import type { Command } from "commander"
import pc from "picocolors"
import { makeBackend } from "../backend.ts"
import { locate } from "../hub/locate.ts"
import { printJson, readJson } from "../json.ts"
import { headersOnly } from "../memory/headers-only.ts"
import { bundled, methodFactory } from "../method.ts"
import { type ModelFlags, modelOptions } from "../model.ts"
import { modelFiles } from "../model-files.ts"
import { numeric, required } from "../options.ts"
import { makeCounter } from "../progress.ts"
import {
  adapterSpectra,
  byProjection,
  figuresOf,
  type LayerSpectrum,
  modelSpectra,
  type ProjectionSpectrum,
  standsAlone,
} from "../spectra.ts"
import { spectrumPlot } from "../spectrum-plot.ts"
import { storedFormats } from "../weights.ts"

interface SpectrumFlags extends ModelFlags {
  readonly threshold: number
  readonly plot: string
}

export function addSpectrum(program: Command): void {
  modelOptions(
    program
      .command("spectrum")
      .description(
        "singular values of what fine-tuning has added, per projection; --adapter is an adapter's folder, or that of a model fine-tuned whole; --model is the base (default: what the adapter names)",
      ),
  )
    .addOption(numeric("--threshold <x>", "singular values above it are counted", { min: 0 }).default(0.1))
    .option("--plot <file.svg>", "where the plot goes", "spectrum.svg")
    .action(runSpectrum)
}

async function runSpectrum(flags: SpectrumFlags): Promise<void> {
  const { threshold, plot } = flags
  const started = performance.now()
  const { folder, name } = await locate(required(flags.adapter, "--adapter"), "adapter")
  const layers = await layersOf(flags, folder)
  const projections = byProjection(layers, threshold)
  const lines = projections.map(({ projection, curve }) => ({ name: projection, values: curve }))
  await mkdir(dirname(plot), { recursive: true })
  await writeFile(plot, spectrumPlot(`Singular values of the update: ${name}`, lines, threshold))
  const seconds = (performance.now() - started) / 1000
  if (flags.json) {
    printJson({
      ...{ threshold, projections, plot, seconds },
      layers: layers.map((layer) => ({ path: layer.path, ...figuresOf(layer, threshold) })),
    })
  } else process.stdout.write(`${table(projections, threshold)}\nplot: ${plot} (${seconds.toFixed(1)} s)\n`)
}

async function layersOf(flags: SpectrumFlags, folder: string): Promise<LayerSpectrum[]> {
  const backend = await makeBackend(flags)
  const whole = existsSync(join(folder, "config.json")) && !existsSync(join(folder, "adapter_config.json"))
  const base = whole ? required(flags.model, "--model") : (flags.model ?? (await namedBase(folder)))
  const { folder: model } = await locate(base, "model")
  const counter = makeCounter("layer")
  const load = (dir: string): Promise<Model> =>
    loadCausalLM(modelFiles(dir), { backend, name: dir, formats: storedFormats })
  if (whole) return modelSpectra(await load(model), await load(folder), counter.done).finally(counter.end)
  const adapted = await withAdapter(await shapesOf(model, backend), flags, folder)
  const enough = standsAlone(adapterOf(adapted)) ? adapted : await withAdapter(await load(model), flags, folder)
  return adapterSpectra(enough, counter.done).finally(counter.end)
}

/** The model without its weights, of which many an update knows nothing. */
function shapesOf(folder: string, backend: Backend): Promise<Model> {
  return loadCausalLM(headersOnly(modelFiles(folder)), { backend, name: folder, formats: storedFormats })
}

async function withAdapter(model: Model, { method }: SpectrumFlags, folder: string): Promise<Model> {
  const methods = method === undefined ? bundled : [await methodFactory(method), ...bundled]
  return (await loadAdapter(model, folder, { methods })).model
}

async function namedBase(folder: string): Promise<string> {
  const config = (await readJson(join(folder, "adapter_config.json"))) as Readonly<Record<string, unknown>> | null
  const name = config?.base_model_name_or_path
  if (typeof name === "string" && name !== "") return name
  throw new PeftError("E_OPTION", `[cli] the adapter in ${folder} does not name its base model; give --model`)
}

function table(projections: readonly ProjectionSpectrum[], threshold: number): string {
  const rows = [
    ["projection", "layers", "of", `above ${threshold}`, "effective rank", "norm", "largest"],
    ...projections.map(({ projection, layers, size, above, effective_rank, norm, largest }) => [
      projection,
      `${layers}`,
      `${Math.round(size)}`,
      above.toFixed(1),
      effective_rank.toFixed(1),
      norm.toPrecision(3),
      largest.toPrecision(3),
    ]),
  ]
  const widths = (rows[0] as string[]).map((_, i) => Math.max(...rows.map((row) => (row[i] as string).length)))
  return rows
    .map((row, at) => {
      const line = row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0)))
      return at === 0 ? pc.dim(line.join("  ")) : line.join("  ")
    })
    .join("\n")
}
