/** The browser that tests open pages in, and how it is started. Knows no page. */
import { existsSync } from "node:fs"
import { chromium as playwright } from "playwright"
import { chromium } from "./chromium.ts"

/** Shared memory and precise clocks are only for pages that are isolated from other sites: headers for whatever serves them. */
export const isolated: Readonly<Record<string, string>> = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
}

/**
 * Options for Playwright's launch. The browser is the one CHROME_PATH names, else Playwright's own where it is installed, else the packed one.
 * Throws where there is none of them.
 */
export async function launchOptions(): Promise<{ executablePath: string; args: string[] }> {
  // The second: WebGPU without a GPU.
  return { executablePath: await executable(), args: ["--no-sandbox", "--enable-unsafe-webgpu"] }
}

async function executable(): Promise<string> {
  const named = process.env.CHROME_PATH
  if (named !== undefined && !existsSync(named)) throw new Error(`CHROME_PATH names ${named}, which does not exist`)
  const own = playwright.executablePath()
  return named ?? (existsSync(own) ? own : (await chromium()).executable)
}
