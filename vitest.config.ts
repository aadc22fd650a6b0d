/** One vitest project per package, named as its folder, plus tests/. Nothing is built: packages export their TypeScript source. */
import { readdirSync } from "node:fs"
import { defineConfig, type ViteUserConfig } from "vitest/config"

const options = { environment: "node", pool: "forks", testTimeout: 30_000, hookTimeout: 30_000 } as const
const packages = readdirSync(new URL("packages", import.meta.url))

const config: ViteUserConfig = defineConfig({
  test: {
    projects: [
      ...packages.map((name) => ({ test: { ...options, name, include: [`packages/${name}/test/**/*.test.ts`] } })),
      { test: { ...options, name: "tests", include: ["tests/**/*.test.ts"] } },
    ],
  },
})

export default config
