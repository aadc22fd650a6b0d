/** A .gguf file where a model folder could stand: every command that takes one. */
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { packedAs } from "../../gguf/test/pack.ts"
import { dense, tinyGguf } from "../../gguf/test/tiny.ts"
import { makeWorkplace, metricsIn, peft, peftJson } from "./run-peft.ts"

const work = makeWorkplace()
afterAll(() => work.remove())
const packed = work.path("q4_1.gguf")
const plain = work.path("bf16.gguf")
const broken = work.path("broken.gguf")
const bytes = await tinyGguf(packedAs("Q4_1"))
writeFileSync(packed, bytes)
writeFileSync(plain, await tinyGguf(dense("BF16")))
writeFileSync(broken, bytes.slice(0, bytes.length - 50))
const ids = Array.from({ length: 16 }, (_, i) => (5 * i) % 64)
const rows = work.write("ids.jsonl", `${JSON.stringify({ input_ids: ids, labels: ids })}\n`.repeat(4))

it("is inspected: its types, and whether it is whole", async () => {
  expect(await peftJson("inspect", packed)).toMatchObject({
    ...{ kind: "gguf", model_type: "llama", tensor_count: 20, tokenizer: false },
    types: { F32: 5 * 64, Q4_1: 64 * 64 + 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 96) },
  })
  expect((await peft("inspect", broken)).stderr).toMatch(/cut off.*E_GGUF/)
})

it("is trained over, evaluated and asked for logits, and merges into a dense folder", async () => {
  const run = work.path("run")
  const common = ["--data", rows, "--max-length", "16"]
  const training = ["--max-steps", "10", "--learning-rate", "0.02", "--r", "4"]
  await peftJson("train", "--model", packed, ...common, ...training, "--output", run)
  const losses = metricsIn(run).map(({ loss }) => loss)
  expect(losses.at(-1)).toBeLessThan(0.8 * (losses[0] as number))
  const adapter = join(run, "adapter")
  expect(JSON.parse(readFileSync(join(adapter, "adapter_config.json"), "utf8")).base_model_name_or_path).toBe(packed)
  const lossOf = async (...args: string[]): Promise<number> =>
    (await peftJson<{ loss: number }>("eval", ...args, ...common, "--loss-mask", "full")).loss
  const [bare, adapted] = [await lossOf("--model", packed), await lossOf("--model", packed, "--adapter", adapter)]
  expect(adapted).toBeLessThan(0.8 * bare)
  await peftJson("merge", "--model", packed, "--adapter", adapter, "--output", work.path("merged"))
  expect(Math.abs((await lossOf("--model", work.path("merged"))) - adapted)).toBeLessThan(1e-3)
  const input = work.write("input.json", JSON.stringify({ input_ids: [ids] }))
  const output = work.path("logits.safetensors")
  expect(await peftJson("logits", "--model", packed, "--input", input, "--output", output)).toMatchObject({
    shape: [1, 16, 64],
  })
})

it("is quantised to a folder where its values are dense, and refused where they are packed", async () => {
  const output = work.path("nf4")
  expect(await peftJson("quantize", "--model", plain, "--output", output)).toMatchObject({ layers: 14 })
  const again = await peft("quantize", "--model", packed, "--output", work.path("again"))
  expect([again.code, again.stderr]).toEqual([1, expect.stringMatching(/gguf's, and nf4 was asked for.*E_CONFIG/)])
  expect(existsSync(work.path("again"))).toBe(false)
})

it("tells what is missing: the file, a tokenizer", async () => {
  expect((await peft("eval", "--model", "some/where.gguf", "--data", rows)).stderr).toMatch(/E_FILE_NOT_FOUND/)
  expect((await peft("generate", "--model", packed, "--prompt", "a")).stderr).toMatch(/E_TOKENIZER/)
})
