/** SmolLM2 on WebGPU in Node: two LoRA steps of 32 tokens have the losses of the CPU backend, also where no buffer may have more than 16 MiB. */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { largestRatio, lossesIn, type Trained } from "./trained.ts"

/** Every token counts: what is left of a row of 32 has no answer in it. */
const recipe =
  "--method lora --target-modules all-linear --r 8 --alpha 16 --max-steps 2 --batch-size 1 --max-length 32 --loss-mask full " +
  "--learning-rate 5e-4 --lr-scheduler constant --no-shuffle"
/** Relative. */
const atMost = 1e-3

export async function webgpuRealModel(context: Context): Promise<void> {
  const data = join(context.shared, "data/gsm8k/train.jsonl")
  const run = async (name: string, ...where: string[]): Promise<Trained & { losses: number[] }> => {
    const output = join(context.folder, name)
    const args = ["train", "--model", context.model, "--data", data, "--output", output, ...recipe.split(" "), ...where]
    const trained = JSON.parse(await context.peft(...args, "--json")) as Trained
    return { ...trained, losses: lossesIn(output) }
  }
  const expected = await run("cpu", "--backend", "cpu")
  const limits = { "with the device's own limits": [], "with buffers of 16 MiB": ["--max-buffer-bytes", "16MiB"] }
  for (const [what, limit] of Object.entries(limits)) {
    const { losses, seconds, kernels } = await run(`webgpu${limit.join("")}`, "--backend", "webgpu", ...limit)
    const ratio = largestRatio(losses, expected.losses)
    const figures = `${losses.map((loss) => loss.toFixed(5)).join(", ")} (cpu ${expected.losses.map((loss) => loss.toFixed(5)).join(", ")})`
    context.expect(
      `two steps ${what}`,
      losses.length === 2 && kernels.startsWith("webgpu") && ratio < atMost,
      `losses ${figures}, ${ratio.toExponential(1)} apart, allowed ${atMost}; ${seconds.toFixed(0)} s on ${kernels}, ${expected.seconds.toFixed(0)} s on the CPU`,
    )
  }
}
