/** `peft merge`: a model folder with an adapter's effect in its weights. */
import { resolve } from "node:path"
import { isTensor, type Model } from "@peftjs/core"
import { saveMerged } from "@peftjs/models/node"
import { type Command, Option } from "commander"
import { locate } from "../hub/locate.ts"
import { printJson } from "../json.ts"
import { loadModel, type ModelFlags, modelOptions } from "../model.ts"
import { modelFiles } from "../model-files.ts"
import { required } from "../options.ts"
import { replaceFolder } from "../replace-folder.ts"
import { loadingOf, type WeightFlags, type WeightType, weightOptions } from "../weights.ts"

const dtypes = ["f32", "bf16", "f16"] as const
type Stored = (typeof dtypes)[number]

interface MergeFlags extends ModelFlags, WeightFlags {
  readonly weights?: WeightType
  readonly output?: string
  readonly dtype?: Stored
  readonly overwrite?: boolean
}

export function addMerge(program: Command): void {
  const own = modelOptions(
    program.command("merge").description("write a model folder with the adapter merged into the weights"),
  )
    .option("--output <dir>", "the new model folder")
    .addOption(new Option("--dtype <type>", "how weights are stored; by default as the base's").choices(dtypes))
    .option("--overwrite", "replace what the output folder holds")
  const again = "pack a base that is quantised again, at a loss that is told (default: dense)"
  weightOptions(own, "--weights", again, { choose: false }).action(runMerge)
}

async function runMerge(flags: MergeFlags): Promise<void> {
  const output = resolve(required(flags.output, "--output"))
  required(flags.adapter, "--adapter")
  const { folder } = await locate(required(flags.model, "--model"), "model")
  const weights = loadingOf(flags)?.weights
  await replaceFolder(output, flags.overwrite ?? false, async (unfinished) => {
    const model = await loadModel(flags)
    if (!weights && isPacked(model)) {
      process.stderr.write(
        `peft: ${flags.model} is quantised: the adapter is merged into what is left of its values. To merge into the original ones, give the model it was made from\n`,
      )
    }
    const dtype = flags.dtype ?? storedAs(model.config)
    const own = weights ? { weights } : {}
    const { maxError, sites, packing } = await saveMerged(model, unfinished, {
      dtype,
      copyFrom: modelFiles(folder),
      ...own,
    })
    const loss = packing
      ? {
          packing_error: packing.maxError,
          packing_error_mean: packing.meanError,
          packing_error_relative: packing.relative,
        }
      : {}
    return () => {
      if (flags.json) printJson({ max_error: maxError, ...loss, sites, dtype, output: flags.output })
      else
        process.stdout.write(
          `${sites} layers merged, stored as ${dtype}, largest error ${maxError.toExponential(2)}${packing ? `, packing changes weights by ${packing.meanError.toExponential(2)} on average and by up to ${packing.maxError.toExponential(2)} (${(100 * packing.relative).toFixed(1)} % of the largest)` : ""}\nmodel: ${flags.output}\n`,
        )
    }
  })
}

const isPacked = ({ params }: Model): boolean =>
  [...params.values()].some((value) => !isTensor(value) && !dtypes.some((dense) => dense === value.format))

/** The base's own type by its config. */
export function storedAs(config: Readonly<Record<string, unknown>>): Stored {
  const name = String(config.dtype ?? config.torch_dtype ?? "float32")
  return name === "bfloat16" ? "bf16" : name === "float16" ? "f16" : "f32"
}
