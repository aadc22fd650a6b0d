/** An adapter on disk: what is saved is what is loaded, whatever it is called, and its config survives JSON. */
import type { Model } from "@peftjs/core"
import { adapterOf, configOf, loadAdapter, saveAdapter } from "@peftjs/core"
import { check, same, throwsCode } from "../assert.ts"
import { perturb, toyLosses } from "../toy-training.ts"
import { hostileNames } from "./lifecycle.ts"
import { memoryFolder, type Subject, subfolder } from "./subject.ts"

export function checkpointChecks({ method, options, base, adapted }: Subject): void {
  const { it } = options

  it("its config survives JSON", () => {
    check(
      json(JSON.parse(json(method.config))) === json(method.config),
      "the config changes when it is written and read",
    )
    for (const [key, value] of Object.entries(method.config)) {
      check(value === null || json({ [key]: value }) !== "{}", `JSON drops ${key}`)
      check(json(value) !== "null" || value === null, `JSON loses ${key}`)
    }
  })

  if (!method.format) {
    it("it has no format, and saying so is all that saving does", async () => {
      const folder = memoryFolder()
      await throwsCode("E_NO_FORMAT", async () => saveAdapter(adapted(await base()), folder), "saveAdapter")
      check(folder.files.size === 0, "something was written")
    })
    return
  }
  const methods = [method]

  it("saved and loaded it is equal, and saved again the same bytes", async () => {
    const model = await base()
    const view = adapted(model)
    perturb(view)
    const folder = memoryFolder()
    await saveAdapter(view, folder)
    const loaded = await loadAdapter(model, folder, { methods })
    const { missing, unexpected, unmatchedTargets } = loaded.report
    check(json([missing, unexpected, unmatchedTargets]) === "[[],[],[]]", `the report says ${json(loaded.report)}`)
    await sameParameters(loaded.model, view)
    same(await toyLosses(loaded.model), await toyLosses(view), "losses")
    const again = memoryFolder()
    await saveAdapter(loaded.model, again)
    for (const file of ["adapter_model.safetensors", "adapter_config.json"])
      same(again.files.get(file) ?? [], folder.files.get(file) ?? [0], `${file} saved again`)
  })

  it("the config it reads back describes the same method", async () => {
    const view = adapted(await base())
    const read = method.format?.read(configOf(view, adapterOf(view)))
    check(json(read?.config) === json(method.config), `${json(read?.config)} was read, not ${json(method.config)}`)
  })

  it("adapters whose names contain one another keep to their folders", async () => {
    const model = await base()
    const folder = memoryFolder()
    const losses: Float32Array[] = []
    let all = model
    for (const [i, name] of hostileNames.entries()) {
      const single = adapted(model, name)
      perturb(single, 0.1 * (i + 1))
      losses.push(await toyLosses(single))
      await saveAdapter(single, folder, { name })
      const place = name === "default" ? folder : subfolder(folder, name)
      all = (await loadAdapter(all, place, { methods, name })).model
    }
    for (const [i, name] of hostileNames.entries()) {
      for (const adapter of all.view.adapters) adapter.enabled = adapter.name === name
      same(await toyLosses(all), losses[i] as Float32Array, `only "${name}"`)
    }
  })
}

async function sameParameters(actual: Model, expected: Model): Promise<void> {
  for (const [path, { params }] of adapterOf(expected).sites) {
    for (const [key, { value, saved }] of Object.entries(params)) {
      const found = adapterOf(actual).sites.get(path)?.params[key]
      if (saved) same((await found?.value.data()) ?? [], await value.data(), `${path}.${key}`)
    }
  }
}

function json(value: unknown): string {
  return JSON.stringify(value)
}
