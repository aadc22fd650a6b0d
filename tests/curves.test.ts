/**
 * Equal seed, data and config give the same losses wherever they are computed: on the CPU, on WebGPU and on CUDA, in Node and in a page.
 * A run that was begun in one place goes on in every other as if nothing had been.
 */
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu/node"
import { cuda } from "@peftjs/backend-cuda/node"
import { webgpu } from "@peftjs/backend-webgpu/node"
import { isPeftError } from "@peftjs/core"
import { type Browser, chromium, type Page } from "playwright"
import { createServer, type ViteDevServer } from "vite"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { isolated, launchOptions } from "./browser.ts"
import { type Checkpoint, type Curve, curve, half, steps } from "./curves/curve.ts"

const tolerance = 1e-3

const launch = await launchOptions().catch((error: Error) => error)
const gpu = await webgpu().catch((error: unknown) => {
  if (isPeftError(error) && error.code === "E_NO_DEVICE") return error
  throw error
})
const tensorflow = await cuda({ device: "cpu" }).catch((error: unknown) => {
  if (isPeftError(error) && error.code === "E_TENSORFLOW") return error
  throw error
})

let server: ViteDevServer
let browser: Browser
let page: Page

beforeAll(async () => {
  if (launch instanceof Error) return
  server = await createServer({
    ...{ root: join(import.meta.dirname, "curves"), configFile: false, logLevel: "error", appType: "mpa" },
    optimizeDeps: { noDiscovery: true },
    server: { port: 0, host: "127.0.0.1", headers: { ...isolated }, fs: { strict: false }, hmr: false, watch: null },
  })
  await server.listen()
  browser = await chromium.launch(launch)
  page = await browser.newPage()
  await page.goto(server.resolvedUrls?.local[0] as string)
  await page.waitForFunction("globalThis.run")
}, 60_000)
afterAll(async () => {
  await browser?.close()
  await server?.close()
})

type Part = "whole" | Checkpoint

const inPage =
  (name: string) =>
  (part: Part): Promise<Curve> =>
    page.evaluate(
      ([on, what]) =>
        (globalThis as unknown as { run: (name: unknown, part: unknown) => Promise<Curve> }).run(on, what),
      [name, part] as const,
    )

const places: Record<string, ((part: Part) => Promise<Curve>) | Error> = {
  "cpu in Node": async (part) => curve(await cpu(), part),
  "webgpu in Node": gpu instanceof Error ? gpu : (part) => curve(gpu, part),
  "cuda (TensorFlow's CPU) in Node": tensorflow instanceof Error ? tensorflow : (part) => curve(tensorflow, part),
  "cpu in Chromium": launch instanceof Error ? launch : inPage("cpu"),
  "webgpu in Chromium": launch instanceof Error ? launch : inPage("webgpu"),
}
const there = Object.entries(places).flatMap(([name, run]) => (run instanceof Error ? [] : [{ name, run }]))
for (const [name, run] of Object.entries(places)) if (run instanceof Error) console.warn(`no ${name}: ${run.message}`)

const worst = (a: readonly number[], b: readonly number[]): number =>
  Math.max(...a.map((x, i) => Math.abs(x - (b[i] as number)) / Math.abs(x)))

describe("the loss curve", () => {
  let reference: readonly number[]
  const whole = new Map<string, Curve>()
  beforeAll(async () => {
    reference = (await curve(await cpu({ kernels: "reference" }), "whole")).losses
  }, 60_000)
  it("falls, and dropout makes a difference", async () => {
    expect(reference.length).toBe(steps)
    expect(reference.at(-1)).toBeLessThan((reference[0] as number) * 0.9)
    const { losses } = await curve(await cpu(), "whole", 0)
    expect(worst(reference, losses)).toBeGreaterThan(10 * tolerance)
  })
  for (const { name, run } of there)
    it(`is the same on ${name}`, { timeout: 120_000 }, async () => {
      const own = await run("whole")
      whole.set(name, own)
      expect(own.losses.length).toBe(steps)
      expect(worst(reference, own.losses)).toBeLessThan(tolerance)
    })
  for (const { name, run } of there)
    for (const { name: begun } of there.filter((other) => other.name !== name))
      it(`goes on on ${name} where ${begun} left off`, { timeout: 120_000 }, async () => {
        const { losses } = await run((whole.get(begun) as Curve).checkpoint)
        expect(losses.length).toBe(steps - half)
        expect(worst(reference.slice(half), losses)).toBeLessThan(tolerance)
      })
})
