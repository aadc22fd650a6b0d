/** The vitest project "chromium": tests that run in a page. Knows how pages get them; which backends they run on is their own business. */
import { playwright } from "@vitest/browser-playwright"
import type { TestProjectInlineConfiguration } from "vitest/config"
import { isolated, launchOptions } from "./browser.ts"

/**
 * The project as a list of one; empty where no browser is to be had, which is printed. Throws then if REQUIRE_BACKENDS names "chromium".
 *
 * @param include patterns of test files, from the repository's root
 * @param env what tests read as import.meta.env
 */
export async function browserProjects(
  include: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<TestProjectInlineConfiguration[]> {
  const launch = await launchOptions().catch((cause: Error) => {
    if ((process.env.REQUIRE_BACKENDS ?? "").split(",").includes("chromium"))
      throw new Error(`chromium is required: ${cause.message}`, { cause })
    console.warn(`project chromium is left out: ${cause.message}`)
  })
  if (!launch) return []
  return [
    {
      // Nothing is looked for while tests run: finding a dependency late reloads the page under them.
      optimizeDeps: { noDiscovery: true },
      server: { headers: isolated },
      test: {
        name: "chromium",
        include: [...include],
        env: { ...env },
        testTimeout: 60_000,
        browser: {
          enabled: true,
          headless: true,
          screenshotFailures: false,
          provider: playwright({ launchOptions: launch }),
          instances: [{ browser: "chromium" }],
        },
      },
    },
  ]
}
