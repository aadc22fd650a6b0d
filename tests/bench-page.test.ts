/** bench/webgpu.html in a headless Chromium: it measures and offers its figures. What the figures are is no test's business. */
import { readFile } from "node:fs/promises"
import { join } from "node:path"
import { chromium } from "playwright"
import { createServer } from "vite"
import { expect, it } from "vitest"
import { launchOptions } from "./browser.ts"

const launch = await launchOptions().catch((error: Error) => error)
if (launch instanceof Error) console.warn(`the page is not opened: ${launch.message}`)

interface Figures {
  readonly device: { readonly software: boolean }
  readonly products: readonly { readonly gflops: { readonly peftjs: number } }[]
  readonly steps: readonly { readonly dispatches: number; readonly loss: number }[]
  readonly steady: boolean
}

it.skipIf(launch instanceof Error)("measures, and offers JSON", { timeout: 150_000 }, async () => {
  if (launch instanceof Error) throw launch
  const root = join(import.meta.dirname, "..", "bench")
  const server = await createServer({
    ...{ root, configFile: join(root, "vite.config.ts"), logLevel: "error" },
    server: { port: 0, host: "127.0.0.1", hmr: false, watch: null },
  })
  const browser = await chromium.launch(launch)
  try {
    await server.listen()
    const page = await browser.newPage()
    const errors: string[] = []
    page.on("pageerror", (error) => errors.push(error.message))
    await page.goto(`${server.resolvedUrls?.local[0]}webgpu.html`)
    await page.getByText(/Ready\.$/).waitFor({ timeout: 60_000 })
    await page.getByRole("button", { name: "Run" }).click()
    await page.getByText(/Done\.$/).waitFor({ timeout: 120_000 })
    const button = page.getByRole("button", { name: "Download JSON" })
    const [file] = await Promise.all([page.waitForEvent("download"), button.click()])
    const { products, steps, steady, device } = JSON.parse(await readFile(await file.path(), "utf8")) as Figures
    expect(errors).toEqual([])
    expect(typeof device.software).toBe("boolean")
    expect(products.length).toBeGreaterThan(4)
    expect(products.every(({ gflops }) => gflops.peftjs > 0)).toBe(true)
    expect(steps.length).toBe(5)
    expect(steps.every(({ dispatches, loss }) => dispatches > 10 && loss > 0)).toBe(true)
    expect(steady).toBe(true)
  } finally {
    await browser.close()
    await server.close()
  }
})
