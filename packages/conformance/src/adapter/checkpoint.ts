/** An adapter on disk: what is saved is what is loaded, whatever it is called, spelled as PEFT does; and its config survives JSON. */
import type { Model } from "@peftjs/core"
import { adapterOf, configOf, saveAdapter } from "@peftjs/core"
import { check, same, throwsCode } from "../assert.ts"
import { perturb, toyLosses } from "../toy-training.ts"
import { memoryFolder, subfolder, tensorsIn } from "./folder.ts"
import { hostileNames } from "./lifecycle.ts"
import { allOff, type Subject } from "./subject.ts"

const files = ["README.md", "adapter_config.json", "adapter_model.safetensors"] as const
const [, configFile, weightsFile] = files

export function checkpointChecks({ method, options, it, base, adapted, load }: Subject): void {
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
      await throwsCode("E_NO_FORMAT", async () => saveAdapter(await adapted(await base()), folder), "saveAdapter")
      check(folder.files.size === 0, "something was written")
    })
    return
  }
  const { format } = method

  it("saved and loaded it is equal, and saved again the same bytes", async () => {
    const model = await base()
    const view = await adapted(model)
    perturb(view)
    const folder = memoryFolder()
    await saveAdapter(view, folder)
    const loaded = await load(model, folder)
    const { missing, unexpected, unmatchedTargets } = loaded.report
    check(json([missing, unexpected, unmatchedTargets]) === "[[],[],[]]", `the report says ${json(loaded.report)}`)
    await sameParameters(loaded.model, view)
    same(await toyLosses(loaded.model), await toyLosses(view), "losses")
    const again = memoryFolder()
    await saveAdapter(loaded.model, again)
    for (const file of [weightsFile, configFile])
      same(again.files.get(file) ?? [], folder.files.get(file) ?? [0], `${file} saved again`)
  })

  it("on disk every tensor is f32 under its module's path and its own name, the same for every adapter", async () => {
    const model = await base()
    const view = await adapted(model)
    const expected = new Map<string, readonly number[]>()
    for (const [path, { params }] of adapterOf(view).sites) {
      const { kind } = model.sites.get(path) as { kind: "linear" | "embedding" }
      for (const [key, { value, saved }] of Object.entries(params)) {
        const name = `base_model.model.${path}.${format.tensorName(key, kind)}`
        check(!saved || !expected.has(name), `two parameters are called ${name}`)
        if (saved) expected.set(name, value.shape)
      }
    }
    const folder = memoryFolder()
    await saveAdapter(view, folder)
    check(json([...folder.files.keys()].sort()) === json(files), `there are ${[...folder.files.keys()].join(", ")}`)
    const found = tensorsIn(folder.files.get(weightsFile) as Uint8Array)
    for (const [name, shape] of expected) {
      check(found[name], `${name} is not there; there are ${Object.keys(found).join(", ")}`)
      const { dtype, shape: written } = found[name]
      check(dtype === "F32" && json(written) === json(shape), `${name} is ${dtype} [${written}], not F32 [${shape}]`)
    }
    if (options.savedAs) {
      const own = [...expected.keys()].map((name) => options.savedAs?.find((end) => name.endsWith(`.${end}`)) ?? name)
      check(
        json([...new Set(own)].sort()) === json([...options.savedAs].sort()),
        `the tensors are called ${[...new Set(own)].join(", ")}, not ${options.savedAs.join(", ")}`,
      )
    }
    await saveAdapter(await adapted(model, "efaul"), folder)
    const other = Object.keys(tensorsIn(folder.files.get(`efaul/${weightsFile}`) as Uint8Array))
    check(json(other) === json(Object.keys(found)), `another adapter's tensors are called ${other.join(", ")}`)
  })

  it("the config on disk holds what PEFT wants to know, and describes the same method", async () => {
    const view = await adapted(await base())
    const folder = memoryFolder()
    await saveAdapter(view, folder)
    const config = JSON.parse(new TextDecoder().decode(folder.files.get(configFile)))
    check(config.peft_type === format.peftType, `peft_type is ${config.peft_type}`)
    check(config.target_modules?.length > 0, "target_modules are missing")
    for (const key of Object.keys(format.defaults)) check(key in config, `${key} is missing`)
    const unknown = format.supported.filter((key) => !(key in format.defaults))
    check(unknown.length === 0, `${unknown.join(", ")} is supported, but no key of the type`)
    const read = format.read(configOf(view, adapterOf(view)))
    check(json(read.config) === json(method.config), `${json(read.config)} was read, not ${json(method.config)}`)
  })

  it("adapters whose names contain one another keep to their folders", async () => {
    const model = await base()
    const folder = memoryFolder()
    const losses: Float32Array[] = []
    let all = model
    for (const [i, name] of hostileNames.entries()) {
      const single = await adapted(model, name)
      perturb(single, 0.1 * (i + 1))
      losses.push(await toyLosses(single))
      await saveAdapter(single, folder, { name })
      const place = name === "default" ? folder : subfolder(folder, name)
      allOff(all)
      all = (await load(all, place, name)).model
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
