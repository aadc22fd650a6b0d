/**
 * A Llama of 1.2 billion parameters with made-up weights, in the shape of Llama 3.2 1B: quantised, and trained for one step within 4 GB of
 * memory on the CPU. Sizes are what the operating system measured of the two processes. Needs no Python; takes 4 GB of disk for as long as it runs.
 */
import { rmSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { type LazyTensorInput, writeSafetensors } from "@peftjs/safetensors"
import { nodeFiles } from "@peftjs/safetensors/node"
import type { Context } from "../programs.ts"

const config = {
  ...{ architectures: ["LlamaForCausalLM"], model_type: "llama", dtype: "bfloat16", hidden_act: "silu" },
  ...{ hidden_size: 2048, intermediate_size: 8192, num_hidden_layers: 16, vocab_size: 128_256 },
  ...{ num_attention_heads: 32, num_key_value_heads: 8, head_dim: 64, max_position_embeddings: 131_072 },
  ...{
    rms_norm_eps: 1e-5,
    rope_theta: 500_000,
    tie_word_embeddings: true,
    bos_token_id: 128_000,
    eos_token_id: 128_001,
  },
}
const tokens = 64
const gigabyte = 1e9

export async function billion({ folder, expect, peft }: Context): Promise<void> {
  const [model, packed, output] = [join(folder, "model"), join(folder, "packed"), join(folder, "out")]
  try {
    const parameters = await writeModel(model)
    const input = sizeOf(model)
    expect("the model has more than a billion parameters", parameters > 1e9, `${(parameters / 1e9).toFixed(3)} billion`)

    const quantise = await timed(() =>
      peft("quantize", "--model", model, "--output", packed, "--double-quant", "--json"),
    )
    const { bits_per_value: bits, peak_rss_mb: peak } = quantise.found as {
      bits_per_value: number
      peak_rss_mb: number
    }
    const size = sizeOf(packed)
    expect(
      "a quantised layer takes at most 4.2 bits a parameter",
      bits <= 4.2,
      `${bits.toFixed(3)}, ${quantise.seconds} s`,
    )
    const quantising = peak * 2 ** 20
    expect(
      "quantising needs about the memory of its output, not of its input",
      quantising < size + 0.75 * gigabyte && quantising < 0.75 * input,
      `${inGb(quantising)} for ${inGb(size)} made of ${inGb(input)}`,
    )

    const ids = Array.from({ length: tokens }, (_, i) => (i * 7919 + 13) % config.vocab_size)
    const data = join(folder, "row.jsonl")
    writeFileSync(data, `${JSON.stringify({ input_ids: ids })}\n`)
    const given = ["train", "--method", "qlora", "--model", packed, "--data", data, "--output", output]
    const run = ["--max-steps", "1", "--batch-size", "1", "--max-length", `${tokens}`, "--gradient-checkpointing"]
    const { found, seconds } = await timed(() => peft(...given, ...run, "--json"))
    const { loss, peak_rss_mb, estimated_mb } = found as Record<string, number>
    const needed = (peak_rss_mb as number) * 2 ** 20
    const estimated = (estimated_mb as number) * 2 ** 20
    expect("a step of QLoRA stays within 4 GB", needed < 4 * gigabyte, `${inGb(needed)}, ${seconds} s`)
    expect("which was estimated before", estimated > 0.6 * needed && estimated < 1.1 * needed, inGb(estimated))
    const blind = Math.log(config.vocab_size)
    expect(
      "its loss is that of a model that knows nothing",
      Math.abs((loss as number) / blind - 1) < 0.15,
      `${loss}, log(vocabulary) is ${blind.toFixed(2)}`,
    )
  } finally {
    for (const path of [model, packed, output]) rmSync(path, { recursive: true, force: true })
  }
}

const inGb = (bytes: number): string => `${(bytes / gigabyte).toFixed(2)} GB`

const sizeOf = (folder: string): number => statSync(join(folder, "model.safetensors")).size

async function timed(run: () => Promise<string>): Promise<{ readonly found: unknown; readonly seconds: string }> {
  const started = performance.now()
  const found: unknown = JSON.parse(await run())
  return { found, seconds: ((performance.now() - started) / 1000).toFixed(0) }
}

/** Writes the folder tensor by tensor and returns how many parameters it has. */
async function writeModel(folder: string): Promise<number> {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: dim } = config
  const [queries, keys] = [config.num_attention_heads * dim, config.num_key_value_heads * dim]
  const shapes: [string, number[]][] = [["model.embed_tokens.weight", [config.vocab_size, hidden]]]
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const at = `model.layers.${layer}`
    shapes.push([`${at}.input_layernorm.weight`, [hidden]], [`${at}.post_attention_layernorm.weight`, [hidden]])
    for (const [name, out] of [
      ["q", queries],
      ["k", keys],
      ["v", keys],
    ] as const)
      shapes.push([`${at}.self_attn.${name}_proj.weight`, [out, hidden]])
    shapes.push([`${at}.self_attn.o_proj.weight`, [hidden, queries]])
    for (const name of ["gate", "up"]) shapes.push([`${at}.mlp.${name}_proj.weight`, [inner, hidden]])
    shapes.push([`${at}.mlp.down_proj.weight`, [hidden, inner]])
  }
  shapes.push(["model.norm.weight", [hidden]])
  const count = (shape: readonly number[]): number => shape.reduce((n, d) => n * d, 1)
  const stock = values(Math.max(...shapes.map(([, shape]) => count(shape))))
  const tensors = shapes.map(([name, shape], i): [string, LazyTensorInput] => {
    const length = count(shape)
    // Norms are ones; the others begin at different places of the stock.
    const data = (): Uint16Array => {
      if (shape.length === 1) return new Uint16Array(length).fill(0x3f80)
      const start = Math.min(i * 8191, stock.length - length)
      return stock.subarray(start, start + length)
    }
    return [name, { dtype: "BF16", shape, data }]
  })
  const files = nodeFiles(folder)
  await writeSafetensors(files, "model.safetensors", tensors, { format: "pt" })
  writeFileSync(join(folder, "config.json"), JSON.stringify(config, null, 2))
  return shapes.reduce((n, [, shape]) => n + count(shape), 0)
}

/** bf16 values of about the size that initialisation gives, 0.02; a stretch of a few million is repeated. */
function values(length: number): Uint16Array {
  const all = new Uint16Array(length)
  const f32 = new Float32Array(1)
  const bits = new Uint32Array(f32.buffer)
  let state = 12345
  const stretch = Math.min(length, 4_194_301)
  const uniform = (): number => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
  for (let i = 0; i < stretch; i++) {
    // Sums of four uniform numbers are near enough to normal ones.
    f32[0] = 0.035 * (uniform() + uniform() + uniform() + uniform() - 2)
    all[i] = (bits[0] as number) >>> 16
  }
  for (let done = stretch; done < length; done *= 2) all.copyWithin(done, 0, Math.min(done, length - done))
  return all
}
