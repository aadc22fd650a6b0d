/** What the page's worker does, in Node: a run whose GPU vanishes goes on where it was, on a new one. */
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu"
import { type WebgpuBackend, webgpu } from "@peftjs/backend-webgpu/node"
import { isPeftError } from "@peftjs/core"
import { nf4 } from "@peftjs/qlora"
import { nodeFiles } from "@peftjs/safetensors/node"
import { expect, it } from "vitest"
import { openSession, type Session } from "../examples/browser/src/session.ts"

const files = nodeFiles(join(import.meta.dirname, "..", "demo", "model"))
const settings = { steps: 14, batchSize: 1, learningRate: 2e-3, rank: 2, dropout: 0.1 }
const rows = ["red", "green", "blue", "white", "black"]
  .map((colour) => JSON.stringify({ question: `What is ${colour}?`, answer: `The sea be ${colour}, matey!` }))
  .join("\n")

/** Whether there is one. */
const gpu = await webgpu().then(
  (backend) => {
    backend.destroy()
    return true
  },
  (error: unknown) => {
    if (isPeftError(error) && error.code === "E_NO_DEVICE") return false
    throw error
  },
)

/** Trains, or goes on, and returns the losses by their steps; `each` is called after every step. */
async function losses(session: Session, goOn: boolean, each: (step: number) => void = () => {}): Promise<number[]> {
  const found: number[] = []
  const signal = new AbortController().signal
  const onStep = ({ step, loss }: { step: number; loss: number }): void => {
    found[step] = loss
    each(step)
  }
  await session.train(rows, settings, { goOn, signal, onStep })
  return found
}

const bases = [
  ["as stored", {}],
  ["in nf4", { weights: nf4() }],
] as const
it.skipIf(!gpu).each(bases)(
  "a lost device: goes on from the last copy, base %s",
  { timeout: 120_000 },
  async (_, how) => {
    const devices: WebgpuBackend[] = []
    const makeBackend = async (): Promise<WebgpuBackend> => {
      devices.push(await webgpu())
      return devices.at(-1) as WebgpuBackend
    }
    const session = await openSession(files, makeBackend, how)
    const vanish = (step: number): void => {
      if (step === 12) devices[0]?.destroy()
    }
    await expect(losses(session, false, vanish)).rejects.toMatchObject({ code: "E_DEVICE_LOST" })
    const rest = await losses(session, true)
    expect(devices.length).toBe(2)
    expect(Object.keys(rest)).toEqual(["11", "12", "13", "14"])
    const whole = await losses(await openSession(files, cpu, how), false)
    for (const step of [11, 12, 13, 14])
      expect(Math.abs((rest[step] as number) / (whole[step] as number) - 1)).toBeLessThan(1e-3)
    expect(Object.keys(await session.save())).toContain("adapter_model.safetensors")
  },
)
