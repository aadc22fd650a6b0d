/** The page of examples/browser in a headless Chromium: it trains, answers, stops, goes on, and its adapter loads in Node. */
import { mkdirSync, mkdtempSync, rmSync, truncateSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { cpu } from "@peftjs/backend-cpu"
import { loadAdapter, type Model, type WeightFormat } from "@peftjs/core"
import { lora } from "@peftjs/lora"
import { generateText } from "@peftjs/models"
import { loadCausalLM } from "@peftjs/models/node"
import { memoryFiles } from "@peftjs/safetensors"
import { type Browser, type BrowserContextOptions, chromium, devices, type Page } from "playwright"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { formatOf } from "../examples/browser/src/weights.ts"
import { writeTinyModel } from "../scripts/tiny-model.ts"
import { launchOptions } from "./browser.ts"
import { answers, curve, downloaded, locale, openPage, ready, type Served, servePage, start } from "./browser-page.ts"

const root = join(import.meta.dirname, "..")
/** Set: docs/browser gets new pictures of the page. */
const pictures = process.env.SCREENSHOTS !== undefined
const launch = await launchOptions().catch((error: Error) => error)
if (launch instanceof Error) console.warn(`the page is not driven: ${launch.message}`)

/** What a model in Node says to the question that stands on the page. */
async function answerOf(model: Model): Promise<string> {
  const question = [{ role: "user", content: "Who is Ella?" }]
  const prompt = model.tokenizer?.applyChatTemplate(question, { addGenerationPrompt: true }) ?? ""
  const ids = model.tokenizer?.encode(prompt, { addSpecialTokens: false }) ?? []
  return (await generateText(model, ids, { maxNewTokens: 48 })).text
}
const modelText = (page: Page): Promise<string | null> => page.locator("#model").textContent()

describe.skipIf(launch instanceof Error)("the page", () => {
  let served: Served
  let browser: Browser
  beforeAll(async () => {
    if (launch instanceof Error) throw launch
    ;[served, browser] = await Promise.all([servePage(), chromium.launch(launch)])
  }, 60_000)
  afterAll(async () => {
    await browser?.close()
    await served?.close()
  })

  /** A page of its own; what it logs as an error fails the test. */
  const visit = async (options: BrowserContextOptions, body: (page: Page) => Promise<void>): Promise<void> => {
    const context = await browser.newContext({ locale, ...options })
    const page = await context.newPage()
    const errors: string[] = []
    page.on("pageerror", (error) => errors.push(error.message))
    page.on("console", (message) => message.type() === "error" && errors.push(message.text()))
    try {
      await body(page)
      expect(errors).toEqual([])
    } finally {
      await context.close()
    }
  }
  const picture = async (page: Page, name: string): Promise<void> => {
    if (!pictures) return
    const folder = join(root, "docs", "browser")
    mkdirSync(folder, { recursive: true })
    await page.screenshot({ path: join(folder, `${name}.png`), fullPage: true, scale: "css" })
  }

  const desktop: BrowserContextOptions = { viewport: { width: 1200, height: 860 } }

  it("trains on the CPU; its adapter does the same in Node", { timeout: 120_000 }, () =>
    visit({ ...desktop, colorScheme: "light" }, async (page) => {
      await openPage(page, served, "cpu")
      expect(await modelText(page)).toMatch(/llama, 1 million parameters in 2 MB, on CPU/)
      expect((await answers(page))[1]).toBe("Train one first.")
      await start(page, pictures ? { steps: 40, batchSize: 8 } : { steps: 25, batchSize: 8 })
      await ready(page)
      const { first, last } = await curve(page)
      expect(last).toBeLessThan(first / 2)
      const [base, adapted] = await answers(page)
      expect(base).toBe("Ella is a pilot.")
      expect(adapted).toMatch(/matey/)
      await picture(page, "desktop")
      await page.emulateMedia({ colorScheme: "dark" })
      await picture(page, "desktop-dark")

      const files = memoryFiles(Object.entries(await downloaded(page)), "adapter")
      expect(await files.list()).toEqual(["README.md", "adapter_config.json", "adapter_model.safetensors"])
      const model = await loadCausalLM(join(root, "demo", "model"), { backend: await cpu() })
      const { model: loaded, report } = await loadAdapter(model, files, { methods: [lora] })
      expect(report.missing.length + report.unexpected.length).toBe(0)
      expect(await answerOf(loaded)).toBe(adapted)
      expect(await answerOf(model)).toBe(base)
    }),
  )

  it("stops, goes on and takes its adapter back, on a phone in the dark", { timeout: 120_000 }, () =>
    visit({ ...devices["Pixel 7"], colorScheme: "dark" }, async (page) => {
      await openPage(page, served, "cpu")
      await start(page, { steps: 60, batchSize: 4 })
      // Not the first ones, and far from the last: a busy machine may show none of those in between.
      await page.getByText(/Step ([3-9]|[1-4]\d) of 60/).waitFor()
      await page.getByRole("button", { name: "Stop" }).tap()
      await ready(page)
      const stopped = await curve(page)
      expect(stopped.steps).toBeLessThan(60)
      await page.getByRole("button", { name: "Continue" }).tap()
      await ready(page)
      expect((await curve(page)).steps).toBe(60)
      expect(await page.evaluate("document.documentElement.scrollWidth - innerWidth")).toBeLessThanOrEqual(0)
      await picture(page, "phone-dark")

      const said = await answers(page)
      const files = Object.entries(await downloaded(page)).filter(([name]) => name !== "README.md")
      await openPage(page, served, "cpu")
      expect((await answers(page))[1]).toBe("Train one first.")
      const chosen = files.map(([name, bytes]) => ({ name, mimeType: "", buffer: Buffer.from(bytes) }))
      await page.getByLabel("Load one").setInputFiles(chosen)
      await page.getByText(/Loaded: LORA on 28 layers/).waitFor()
      await ready(page)
      expect(await answers(page)).toEqual(said)
    }),
  )

  it("takes a folder of one's own, and says what is wrong with a broken one", { timeout: 120_000 }, () =>
    visit({ ...desktop, colorScheme: "dark" }, async (page) => {
      const folder = mkdtempSync(join(tmpdir(), "peftjs-own-"))
      try {
        writeTinyModel(folder)
        await openPage(page, served, "cpu")
        await page.getByLabel("Your own model folder").setInputFiles(folder)
        await page.getByText("llama, 0.2 million parameters in").waitFor()
        await ready(page)
        await start(page, { steps: 6, batchSize: 2 })
        await ready(page)
        expect((await curve(page)).steps).toBe(6)

        truncateSync(join(folder, "model.safetensors"), 100_000)
        await page.getByLabel("Your own model folder").setInputFiles(folder)
        await expect(ready(page)).rejects.toThrow(/A file is damaged/)
        rmSync(join(folder, "model.safetensors"))
        await page.getByLabel("Your own model folder").setInputFiles(folder)
        await expect(ready(page)).rejects.toThrow(/A file is missing/)
      } finally {
        rmSync(folder, { recursive: true, force: true })
      }
    }),
  )

  it.each([
    ["cpu", "nf4", 2.3],
    ["cpu", "int8", 1.5],
    ["webgpu", "nf4-double", 2.3],
  ] as const)("trains over weights packed while they are read: %s, %s", { timeout: 120_000 }, (device, weights, less) =>
    visit(desktop, async (page) => {
      await openPage(page, served, device, weights)
      const [, megabytes] = /1 million parameters in ([\d.]+) MB, on /.exec((await modelText(page)) ?? "") ?? []
      // Linear layers are nine tenths of it; the embedding, which is the head too, stays.
      expect(Number(megabytes)).toBeLessThan(2 / less)
      const [plain] = await answers(page)
      expect(plain).not.toBe("")
      await start(page, device === "cpu" ? { steps: 25, batchSize: 8 } : { steps: 3, batchSize: 2 })
      await ready(page)
      const { first, last } = await curve(page)
      expect(last).toBeLessThan(device === "cpu" ? first / 2 : first)
      const [base, adapted] = await answers(page)
      expect(base).toBe(plain)
      if (device === "cpu") expect(adapted).toMatch(/matey/)

      // An ordinary adapter: in Node it does the same over the same weights, and loads over the dense ones.
      const files = memoryFiles(Object.entries(await downloaded(page)), "adapter")
      for (const options of [{ weights: formatOf(weights) as WeightFormat }, {}]) {
        const model = await loadCausalLM(join(root, "demo", "model"), { backend: await cpu(), ...options })
        const { model: loaded, report } = await loadAdapter(model, files, { methods: [lora] })
        expect(report.missing.length + report.unexpected.length).toBe(0)
        if (device === "cpu" && options.weights) expect(await answerOf(loaded)).toBe(adapted)
      }
    }),
  )

  it("trains on WebGPU where the browser has it, and says so where not", { timeout: 120_000 }, async () => {
    await visit(desktop, async (page) => {
      await openPage(page, served, "webgpu")
      expect(await modelText(page)).toMatch(/on WebGPU \(/)
      expect((await answers(page))[0]).toBe("Ella is a pilot.")
      await start(page, { steps: 3, batchSize: 2 })
      await ready(page)
      const { first, last, steps } = await curve(page)
      expect(steps).toBe(3)
      expect(last).toBeLessThan(first)
    })
    const without = await chromium.launch({ ...(launch as object), args: ["--no-sandbox", "--disable-gpu"] })
    try {
      const page = await without.newPage({ locale })
      await expect(openPage(page, served, "webgpu")).rejects.toThrow(/offers no WebGPU/)
      await page.getByLabel("Compute on").selectOption("auto")
      await ready(page)
      expect(await modelText(page)).toMatch(/on CPU/)
      expect(await page.locator("#note").textContent()).toMatch(/WebGPU is not used/)
    } finally {
      await without.close()
    }
  })
})
