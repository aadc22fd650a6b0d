/** `peft quantize`: a model folder in 4 or 8 bits, as transformers and bitsandbytes read it. */
import { resolve } from "node:path"
import type { Model, Weight } from "@peftjs/core"
import { isTensor } from "@peftjs/core"
import { loadCausalLM } from "@peftjs/models"
import { saveModel } from "@peftjs/models/node"
import type { Command } from "commander"
import { type BackendFlags, makeBackend } from "../backend.ts"
import { locate } from "../hub/locate.ts"
import { printJson } from "../json.ts"
import { modelFiles } from "../model-files.ts"
import { commonOptions, required } from "../options.ts"
import { peakRssMb } from "../process-memory.ts"
import { replaceFolder } from "../replace-folder.ts"
import { loadingAs, type WeightFlags, type WeightType, weightOptions } from "../weights.ts"
import { storedAs } from "./merge.ts"

interface QuantizeFlags extends WeightFlags, BackendFlags {
  readonly model?: string
  readonly output?: string
  readonly type?: WeightType
  readonly overwrite?: boolean
  readonly json?: boolean
}

export function addQuantize(program: Command): void {
  const own = program
    .command("quantize")
    .description("write a model folder whose linear layers take 4 or 8 bits a value")
    .option("--model <dir>", "Hugging Face model folder, .gguf file, or ORG/NAME[@REVISION] of the hub")
    .option("--output <dir>", "the new model folder")
    .option("--overwrite", "replace what the output folder holds")
    .option("--config <file.yaml>", "options written down; the command line wins")
  commonOptions(weightOptions(own, "--type", "nf4 (by default), fp4, or int8 with one scale for each row")).action(
    runQuantize,
  )
}

async function runQuantize(flags: QuantizeFlags): Promise<void> {
  const output = resolve(required(flags.output, "--output"))
  const { folder, name } = await locate(required(flags.model, "--model"), "model")
  const files = modelFiles(folder)
  const type = flags.type ?? "nf4"
  const loading = loadingAs(type, flags)
  await replaceFolder(output, flags.overwrite ?? false, async (unfinished) => {
    // A folder that is quantised already is refused: its values have lost what a second time would round.
    const model = await loadCausalLM(files, { ...loading, backend: await makeBackend(flags), name, formats: [] })
    await saveModel(model, unfinished, { dtype: storedAs(model.config), copyFrom: files })
    const found = { type, ...sizesOf(model, type), peak_rss_mb: peakRssMb(), output: flags.output }
    return () => {
      if (flags.json) printJson(found)
      else
        process.stdout.write(
          `${found.layers} layers in ${type}, ${found.bits_per_value.toFixed(3)} bits a value, ${(found.bytes / 1e6).toFixed(1)} MB; ${Math.round(found.peak_rss_mb).toLocaleString("en")} MB of memory were needed\nmodel: ${flags.output}\n`,
        )
    }
  })
}

/** The layers that were quantised, and what they take on the device. */
function sizesOf({ params }: Model, type: string): { layers: number; bytes: number; bits_per_value: number } {
  const packed = [...params.values()].filter((value): value is Weight => !isTensor(value) && value.format === type)
  const bytes = packed.reduce((sum, weight) => sum + weight.bytes, 0)
  const values = packed.reduce((sum, { shape: [rows, columns] }) => sum + rows * columns, 0)
  return { layers: packed.length, bytes, bits_per_value: values === 0 ? 0 : (8 * bytes) / values }
}
