/** LoRA in adapter_config.json and adapter_model.safetensors (reference: peft tuners/lora/config.py and layer.py). */
import { type AdapterFormat, type AdapterMethod, configFor, optionsOf, type PeftConfig } from "@peftjs/core"
import type { LoraOptions } from "./lora.ts"

const absent =
  "alora_invocation_tokens arrow_config corda_config eva_config kasa_config layer_replication layers_pattern " +
  "layers_to_transform lora_ga_config megatron_config " +
  "monteclora_config target_parameters trainable_token_indices use_bdlora velora_config"
const defaults: PeftConfig = {
  ...Object.fromEntries(absent.split(" ").map((key) => [key, null])),
  ...{ r: 8, lora_alpha: 8, lora_dropout: 0, use_rslora: false, init_lora_weights: true, fan_in_fan_out: false },
  ...{
    rank_pattern: {},
    alpha_pattern: {},
    use_dora: false,
    lora_bias: false,
    bias: "none",
    ensure_weight_tying: false,
  },
  ...{ loftq_config: {}, megatron_core: "megatron.core", use_qalora: false, qalora_group_size: 16 },
}

const spelling: Record<keyof LoraOptions, string> = {
  ...{ r: "r", alpha: "lora_alpha", dropout: "lora_dropout", rslora: "use_rslora", init: "init_lora_weights" },
  ...{ rankPattern: "rank_pattern", alphaPattern: "alpha_pattern", dora: "use_dora", loraBias: "lora_bias" },
}

/** Of no meaning without a partner: megatron_core, qalora_group_size. How the base is stored, the model knows better: fan_in_fan_out. */
const harmless = ["megatron_core", "qalora_group_size", "fan_in_fan_out"]

const linear: Record<string, string> = { A: "lora_A.weight", B: "lora_B.weight", bias: "lora_B.bias" }
const embedding: Record<string, string> = { A: "lora_embedding_A", B: "lora_embedding_B" }

export function loraFormat(make: (options: LoraOptions) => AdapterMethod): AdapterFormat {
  return {
    peftType: "LORA",
    defaults,
    supported: [...Object.values(spelling), ...harmless],
    read: (config) => make(optionsOf("lora", spelling, defaults, config)),
    write({ config }, sites) {
      return { ...configFor(spelling, config), fan_in_fan_out: sites.some((site) => site.fanInFanOut) }
    },
    tensorName: (param, kind) => (kind === "linear" ? linear : embedding)[param] ?? "lora_magnitude_vector",
  }
}
