/** How webgpu.html is served (`npm run bench:page`). */
import { defineConfig, type UserConfig } from "vite"
import { isolated } from "../tests/browser.ts"

const config: UserConfig = defineConfig({
  root: import.meta.dirname,
  appType: "mpa",
  // Every dependency of the page is a module already; finding one late would reload it.
  optimizeDeps: { noDiscovery: true },
  // Isolated pages have precise clocks.
  server: { headers: { ...isolated } },
})

export default config
