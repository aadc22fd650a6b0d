/** LoRA in adapter_config.json and adapter_model.safetensors (reference: peft tuners/lora/config.py and layer.py). */
import { type AdapterFormat, type AdapterMethod, type PeftConfig, PeftError } from "@peftjs/core"
import type { LoraOptions } from "./lora.ts"

const defaults: PeftConfig = {
  alora_invocation_tokens: null,
  alpha_pattern: {},
  arrow_config: null,
  bias: "none",
  corda_config: null,
  ensure_weight_tying: false,
  eva_config: null,
  fan_in_fan_out: false,
  init_lora_weights: true,
  kasa_config: null,
  layer_replication: null,
  loftq_config: {},
  lora_alpha: 8,
  lora_bias: false,
  lora_dropout: 0,
  lora_ga_config: null,
  megatron_config: null,
  megatron_core: "megatron.core",
  monteclora_config: null,
  qalora_group_size: 16,
  r: 8,
  rank_pattern: {},
  target_parameters: null,
  trainable_token_indices: null,
  use_bdlora: null,
  use_dora: false,
  use_qalora: false,
  use_rslora: false,
  velora_config: null,
}

const spelling = {
  r: "r",
  alpha: "lora_alpha",
  dropout: "lora_dropout",
  rslora: "use_rslora",
  init: "init_lora_weights",
  rankPattern: "rank_pattern",
  alphaPattern: "alpha_pattern",
} as const satisfies Record<keyof LoraOptions, string>

/** What the values mean only with their partner is ignored: megatron_core without megatron_config, qalora_group_size without use_qalora. */
const harmless = ["megatron_core", "qalora_group_size"]

export function loraFormat(make: (options: LoraOptions) => AdapterMethod): AdapterFormat {
  return {
    peftType: "LORA",
    defaults,
    supported: [...Object.values(spelling), ...harmless],
    read(config) {
      const given = Object.entries(spelling).filter(([, key]) => config[key] != null)
      for (const [name, key] of given) checkType(key, config[key], name)
      return make(Object.fromEntries(given.map(([name, key]) => [name, config[key]])))
    },
    write: ({ config }) => Object.fromEntries(Object.entries(spelling).map(([name, key]) => [key, config[name]])),
    tensorName: (param) => `lora_${param}.weight`,
  }
}

function checkType(key: string, value: unknown, name: string): void {
  const wanted = typeof defaults[key]
  if (name === "init" || typeof value === wanted) return
  throw new PeftError(
    "E_CONFIG",
    `[lora] "${key}" must be a ${wanted === "object" ? "table of numbers" : wanted}, not ${JSON.stringify(value)}`,
  )
}
