/** What an adapter folder holds, without its base model: the configuration in PEFT's words, and the tensors against it. */
import { type PeftConfig, PeftError } from "@peftjs/core"
import { type FileSource, openSafetensors, type TensorSource, toFloat32 } from "@peftjs/safetensors"
import { requireFinite, summarise } from "./inspect-tensors.ts"
import { readJson } from "./json.ts"

const weightsFile = "adapter_model.safetensors"

/** Throws E_JSON, E_CONFIG, E_EMPTY_ADAPTER, E_ADAPTER_KEYS, E_ADAPTER_SHAPE, E_ADAPTER_COPY, E_NOT_FINITE, and what reading throws. */
export async function inspectAdapter(files: FileSource): Promise<object> {
  const config = configOf(await readJson(`${files.name}/adapter_config.json`), files.name)
  const source = await openSafetensors(await files.open(weightsFile))
  if (source.tensors.size === 0) {
    throw new PeftError("E_EMPTY_ADAPTER", `[cli] ${source.name} holds no tensors; save the adapter again`)
  }
  if (config.use_mora === true) await checkCopies(source)
  else checkPairs(source, config)
  await requireFinite(source)
  return {
    kind: "adapter",
    path: files.name,
    peft_type: config.peft_type,
    base_model_name_or_path: config.base_model_name_or_path ?? null,
    r: config.r ?? null,
    lora_alpha: config.lora_alpha ?? null,
    ...moraKeys(config),
    target_modules: config.target_modules ?? null,
    ...summarise(source),
    tensors: [...source.tensors].map(([name, { dtype, shape }]) => ({ name, dtype, shape })),
  }
}

function configOf(value: unknown, folder: string): PeftConfig {
  const config = value as PeftConfig
  if (typeof value === "object" && value !== null && typeof config.peft_type === "string") return config
  throw new PeftError(
    "E_CONFIG",
    `[cli] ${folder}/adapter_config.json has no "peft_type"; is it an adapter made by Hugging Face PEFT?`,
  )
}

/** LoRA's tensors come in pairs A [r, in] and B [out, r], with the configuration's r where no pattern gives layers ranks of their own. */
function checkPairs(source: TensorSource, config: PeftConfig): void {
  if (config.peft_type !== "LORA") return
  const uniform = Object.keys((config.rank_pattern as object | null) ?? {}).length === 0
  for (const [name, { shape }] of source.tensors) {
    if (name.endsWith(".bias")) continue
    const [a, b] = [".lora_A.", ".lora_B."]
    const other = name.includes(a) ? name.replace(a, b) : name.includes(b) ? name.replace(b, a) : undefined
    if (other === undefined) continue
    const partner = source.tensors.get(other)
    if (!partner)
      throw new PeftError("E_ADAPTER_KEYS", `[cli] ${source.name} has ${name} but not ${other}; save the adapter again`)
    const [rank, partnerRank] = name.includes(a) ? [shape[0], partner.shape[1]] : [shape[1], partner.shape[0]]
    if (rank === partnerRank && (!uniform || rank === config.r)) continue
    throw new PeftError(
      "E_ADAPTER_SHAPE",
      `[cli] ${source.name}: ${name} is [${shape}], ${other} is [${partner.shape}], and the configuration says r = ${config.r}; they do not belong together`,
    )
  }
}

/** What says which MoRA it is. */
function moraKeys({ use_mora, mora_type }: PeftConfig): object {
  return { ...(use_mora === undefined ? {} : { use_mora }), ...(mora_type === undefined ? {} : { mora_type }) }
}

/** The published code of MoRA stores its one matrix as A and again as B; B may be missing. */
async function checkCopies(source: TensorSource): Promise<void> {
  for (const name of source.tensors.keys()) {
    const other = name.replace(".lora_A.", ".lora_B.")
    if (other === name || !source.tensors.has(other)) continue
    const [one, two] = [await source.read(name), await source.read(other)]
    const [a, b] = [toFloat32(one.dtype, one.data), toFloat32(two.dtype, two.data)]
    if (`${one.shape}` === `${two.shape}` && a.every((x, i) => Object.is(x, b[i]))) continue
    throw new PeftError(
      "E_ADAPTER_COPY",
      `[cli] ${source.name}: ${other} differs from ${name}, of which it should be a copy; the file is damaged or of another method`,
    )
  }
}
