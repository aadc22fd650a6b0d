/**
 * `npm run experiments -- NAME [--quick] [--seed N]`: runs one experiment from its seed, prints its table and writes its result and plot.
 * Must not know what they do.
 */
import { parseArgs } from "node:util"
import { continual } from "./continual.ts"
import { instruction } from "./instruction.ts"
import { pretraining } from "./pretraining.ts"
import { type Options, type Report, resultsFolder } from "./report.ts"
import { spectrum } from "./spectrum.ts"
import { uuid } from "./uuid.ts"

const experiments: Readonly<Record<string, (options: Options) => Promise<Report>>> = {
  uuid,
  continual,
  pretraining,
  instruction,
  spectrum,
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { quick: { type: "boolean", default: false }, seed: { type: "string", default: "1" } },
})
const names = positionals.includes("all") ? Object.keys(experiments) : positionals
const unknown = names.find((name) => !Object.hasOwn(experiments, name))
const seed = Number(values.seed)
if (names.length === 0 || unknown !== undefined || !Number.isInteger(seed)) {
  const what = unknown === undefined ? "" : `there is no experiment called "${unknown}"\n`
  console.error(`${what}npm run experiments -- ${Object.keys(experiments).join(" | ")} | all  [--quick] [--seed N]`)
  process.exit(1)
}
for (const name of names) {
  const folder = resultsFolder(values.quick)
  const { seconds } = await (experiments[name] as (typeof experiments)[string])({ quick: values.quick, seed, folder })
  console.log(`\n${seconds} s of processor time; ${name}.json and ${name}.svg are in ${folder}`)
}
