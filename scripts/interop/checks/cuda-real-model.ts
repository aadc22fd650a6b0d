/**
 * SmolLM2 on the CUDA backend, on TensorFlow's CPU: ten LoRA steps through `peft train` have the losses of the CPU backend, and the adapter means
 * the same there. Fetches TensorFlow where it is not.
 */
import { join } from "node:path"
import type { Context } from "../programs.ts"
import { largestRatio, lossesIn, type Trained } from "./trained.ts"

const recipe =
  "--method lora --target-modules all-linear --r 8 --alpha 16 --max-steps 10 --batch-size 1 --max-length 32 --loss-mask full " +
  "--learning-rate 5e-4 --lr-scheduler constant --no-shuffle"
/** Relative. */
const atMost = 1e-3

export async function cudaRealModel(context: Context): Promise<void> {
  await context.peft("setup", "cuda", "--device", "cpu", "--json")
  const data = join(context.shared, "data/gsm8k/train.jsonl")
  const run = async (name: string, ...where: string[]): Promise<Trained & { losses: number[] }> => {
    const output = join(context.folder, name)
    const args = ["train", "--model", context.model, "--data", data, "--output", output, ...recipe.split(" "), ...where]
    const trained = JSON.parse(await context.peft(...args, "--json")) as Trained
    return { ...trained, losses: lossesIn(output) }
  }
  const expected = await run("cpu", "--backend", "cpu")
  const cuda = await run("cuda", "--backend", "cuda", "--device", "cpu")
  const ratio = largestRatio(cuda.losses, expected.losses)
  context.expect(
    "ten steps on TensorFlow's CPU",
    cuda.losses.length === 10 && cuda.kernels.startsWith("cuda (on the CPU") && ratio < atMost,
    `losses ${cuda.losses.map((loss) => loss.toFixed(4)).join(", ")}, ${ratio.toExponential(1)} from the CPU backend's, allowed ${atMost}; ${cuda.seconds.toFixed(0)} s on ${cuda.kernels}, ${expected.seconds.toFixed(0)} s on the CPU`,
  )
  const evaluate = async (...where: string[]): Promise<number> => {
    const rows = [
      "--data",
      data,
      "--max-eval-samples",
      "4",
      "--batch-size",
      "1",
      "--max-length",
      "32",
      "--loss-mask",
      "full",
    ]
    const adapter = ["--adapter", join(context.folder, "cuda/adapter")]
    const said = await context.peft("eval", "--model", context.model, ...adapter, ...rows, ...where, "--json")
    return (JSON.parse(said) as { loss: number }).loss
  }
  const [here, there] = [await evaluate("--backend", "cpu"), await evaluate("--backend", "cuda", "--device", "cpu")]
  const apart = Math.abs(there / here - 1)
  context.expect(
    "its adapter, evaluated on both",
    apart < 1e-4,
    `losses ${here.toFixed(5)} and ${there.toFixed(5)}, allowed 1e-4 apart`,
  )
}
