/**
 * MoRA on disk. Its own layout has a peft_type of its own, so that no program takes M for something else. The published code's (kongds/MoRA,
 * a PEFT of early 2024) says LORA and `use_mora`, and stores M twice; it is read, and written when asked for.
 */
import { type AdapterFormat, type AdapterMethod, configFor, optionsOf, type PeftConfig } from "@peftjs/core"
import type { MoraOptions } from "./mora.ts"
import { type MoraType, types } from "./types.ts"

type Make = (options: MoraOptions) => AdapterMethod

const defaults: PeftConfig = { r: 8, mora_type: 6, mora_dropout: 0, rank_pattern: {}, remora_types: 4 }
const spelling = { r: "r", dropout: "mora_dropout", rankPattern: "rank_pattern", remoraTypes: "remora_types" }

/** Every key of its LoraConfig; later ones would keep that code from reading the file. */
const upstreamDefaults: PeftConfig = {
  ...{ r: 8, use_mora: true, mora_type: 1, lora_dropout: 0, rank_pattern: {}, fan_in_fan_out: false },
  ...{ lora_alpha: 8, alpha_pattern: {}, use_rslora: false, init_lora_weights: true, use_dora: false, bias: "none" },
  ...{ megatron_config: null, megatron_core: "megatron.core", loftq_config: {} },
  ...{ layers_pattern: null, layers_to_transform: null },
}
const upstreamSpelling = { r: "r", dropout: "lora_dropout", rankPattern: "rank_pattern" }
/** That code never scales M; how the base is stored, the model knows better. */
const idle = ["lora_alpha", "alpha_pattern", "use_rslora", "megatron_core", "fan_in_fan_out"]

/** The type goes by number on disk, and is read by name as well. */
function readOptions(names: typeof upstreamSpelling, given: PeftConfig, config: PeftConfig): MoraOptions {
  const type = (config.mora_type ?? given.mora_type) as MoraType
  return { ...optionsOf("mora", names, given, config), type }
}
const writeOptions = (names: typeof upstreamSpelling, { config }: AdapterMethod): PeftConfig => ({
  ...configFor(names, config),
  mora_type: types[config.type as MoraType],
})

const usage = `MoRA as peftjs writes it. Hugging Face PEFT does not know it: convert it to LoRA, exactly for every type but rotation,
or merge it into a model folder.

    npx @peftjs/cli convert --model BASE --adapter path/of/this/folder --to lora --output as-lora
    npx @peftjs/cli merge --model BASE --adapter path/of/this/folder --output merged
`

const upstreamUsage = `MoRA as the PEFT of https://github.com/kongds/MoRA writes it, which loads it. Plain PEFT and servers of LoRA do not know
it, and some take it for a LoRA without a word: convert it to one, or merge it into a model folder.

    npx @peftjs/cli convert --model BASE --adapter path/of/this/folder --to lora --output as-lora
    npx @peftjs/cli merge --model BASE --adapter path/of/this/folder --output merged
`

/** `peft_type` MORA, one `mora_M.weight` per layer. */
export function moraFormat(make: Make, alternatives: readonly AdapterFormat[]): AdapterFormat {
  const format = {
    peftType: "MORA",
    defaults,
    supported: Object.keys(defaults),
    read: (config: PeftConfig) => make(readOptions(spelling, defaults, config)),
    write: (method: AdapterMethod) => writeOptions(spelling, method),
    tensorName: () => "mora_M.weight",
    usage,
    alternatives,
  }
  return format
}

/** `peft_type` LORA with `use_mora`: M as `lora_A.weight` and once more as `lora_B.weight`. An adapter read from it is written like it. */
export function upstreamFormat(make: Make): AdapterFormat {
  const format: AdapterFormat & { readonly copies: () => readonly string[] } = {
    peftType: "LORA",
    defaults: upstreamDefaults,
    supported: ["use_mora", "mora_type", ...Object.values(upstreamSpelling), ...idle],
    claims: (config) => config.use_mora === true,
    read: (config) => ({ ...make(readOptions(upstreamSpelling, upstreamDefaults, config)), format }),
    write(method, sites) {
      const fanInFanOut = sites.some((site) => site.fanInFanOut)
      const unknownThere = { exclude_modules: undefined, peft_version: undefined }
      return { ...writeOptions(upstreamSpelling, method), fan_in_fan_out: fanInFanOut, ...unknownThere }
    },
    tensorName: () => "lora_A.weight",
    usage: upstreamUsage,
    copies: () => ["lora_B.weight"],
  }
  return format
}
