/** Runs the page of the kernel benchmark in the headless browser that tests use. */
import { join } from "node:path"
import { chromium } from "playwright"
import { createServer } from "vite"
import { isolated, launchOptions } from "../tests/browser.ts"
import type { PageResult } from "./chromium-page.ts"
import type { MatmulShape } from "./kernel-bench.ts"

/** Throws where there is no browser. */
export async function measureInChromium(shapes: readonly MatmulShape[]): Promise<PageResult & { browser: string }> {
  const server = await createServer({
    root: import.meta.dirname,
    configFile: false,
    logLevel: "error",
    server: { port: 0, host: "127.0.0.1", headers: isolated, fs: { allow: [join(import.meta.dirname, "..")] } },
    optimizeDeps: { include: ["@jax-js/jax", "@tensorflow/tfjs-core", "@tensorflow/tfjs-backend-webgpu"] },
  })
  try {
    await server.listen()
    const browser = await chromium.launch(await launchOptions())
    try {
      const page = await browser.newPage()
      page.on("console", (message) => process.stderr.write(`${message.text()}\n`))
      page.on("pageerror", (error) => console.error(error.message))
      await page.goto(`${server.resolvedUrls?.local[0]}chromium-page.html`)
      await page.waitForFunction("globalThis.measure !== undefined", undefined, { timeout: 120_000 })
      const result = (await page.evaluate(`measure(${JSON.stringify(shapes)})`)) as PageResult
      return { ...result, browser: browser.version() }
    } finally {
      await browser.close()
    }
  } finally {
    await server.close()
  }
}
