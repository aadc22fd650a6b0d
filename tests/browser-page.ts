/** Drives the page of examples/browser as a person would: by labels, buttons and what it says. Knows no test and nothing of the page's code. */

import { mkdtempSync, rmSync } from "node:fs"
import { readFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { unzipSync } from "fflate"
import { chromium, type Page } from "playwright"
import { build, preview } from "vite"
import { launchOptions } from "./browser.ts"

const folder = join(import.meta.dirname, "..", "examples", "browser")

export interface Served {
  readonly url: string
  close(): Promise<void>
}

/** The page, built and served on a free port. */
export async function servePage(): Promise<Served> {
  const outDir = mkdtempSync(join(tmpdir(), "peftjs-page-"))
  const common = { root: folder, configFile: join(folder, "vite.config.ts"), logLevel: "error" } as const
  await build({ ...common, build: { outDir } })
  const server = await preview({ ...common, build: { outDir }, preview: { port: 0, host: "127.0.0.1" } })
  const url = server.resolvedUrls?.local[0]
  if (!url) throw new Error("the page is not served")
  return {
    url,
    async close() {
      await server.close()
      rmSync(outDir, { recursive: true, force: true })
    },
  }
}

/** Without one, a machine whose language is "C" gives its browser a locale that is none. */
export const locale = "en-US"

/** Opens the page; returns when the model is there and the first question has been answered. */
export async function openPage(
  page: Page,
  { url }: Served,
  device: "cpu" | "webgpu",
  weights = "as-stored",
): Promise<void> {
  await page.goto(`${url}?device=${device}&weights=${weights}`)
  await ready(page)
}

/** Fills in the form and starts; does not wait. */
export async function start(
  page: Page,
  { steps, batchSize }: { readonly steps: number; readonly batchSize: number },
): Promise<void> {
  await page.getByLabel("Steps", { exact: true }).fill(String(steps))
  await page.getByLabel("Rows per step").fill(String(batchSize))
  await page.getByRole("button", { name: "Start" }).click()
}

/** Waits until nothing is being done. Throws what the page says went wrong. */
export async function ready(page: Page, timeout = 90_000): Promise<void> {
  const idle = page.getByRole("button", { name: "Ask" }).and(page.locator(":enabled"))
  const problem = page.getByRole("alert").filter({ visible: true })
  await idle.or(problem).first().waitFor({ timeout })
  if (await problem.isVisible()) throw new Error(`the page says: ${await problem.textContent()}`)
}

/** First and last loss of the curve, as the page describes it. */
export async function curve(page: Page): Promise<{ first: number; last: number; steps: number }> {
  const words = (await page.getByRole("img").getAttribute("aria-label")) ?? ""
  const [, first, , last, steps] = /([\d.]+) at step (\d+), ([\d.]+) at step (\d+)/.exec(words) ?? []
  return { first: Number(first), last: Number(last), steps: Number(steps) }
}

/** The answers to the question that stands there: without the adapter and with it. */
export async function answers(page: Page): Promise<readonly [base: string, adapted: string]> {
  const [base = "", adapted = ""] = await page.getByRole("definition").allTextContents()
  return [base, adapted]
}

/** The files of the archive that the page's button downloads. */
export async function downloaded(page: Page): Promise<Readonly<Record<string, Uint8Array>>> {
  const [file] = await Promise.all([
    page.waitForEvent("download"),
    page.getByRole("button", { name: "Download" }).click(),
  ])
  return unzipSync(new Uint8Array(await readFile(await file.path())))
}

/** The whole way, in a browser of its own: trains on the CPU, downloads. */
export async function inPage(
  run: Parameters<typeof start>[1],
): Promise<{ first: number; last: number; files: Readonly<Record<string, Uint8Array>> }> {
  const served = await servePage()
  const browser = await chromium.launch(await launchOptions())
  try {
    const page = await browser.newPage({ locale })
    await openPage(page, served, "cpu")
    await start(page, run)
    await ready(page)
    return { ...(await curve(page)), files: await downloaded(page) }
  } finally {
    await browser.close()
    await served.close()
  }
}
