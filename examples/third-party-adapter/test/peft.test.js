/** Adapters that Hugging Face PEFT has written: the same logits, loss, gradients, merged weights and files as PEFT computes. */
import assert from "node:assert/strict"
import { mkdtempSync, readFileSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { test } from "node:test"
import { cpu } from "@peftjs/backend-cpu/node"
import { engineOf, isTensor, merge, trainables, valueAndGradients } from "@peftjs/core"
import { loadAdapter, saveAdapter } from "@peftjs/core/node"
import { loadCausalLM } from "@peftjs/models/node"
import { parseSafetensors, toFloat32 } from "@peftjs/safetensors"
import { ia3 } from "../ia3.js"

const fixtures = join(import.meta.dirname, "fixtures")
const models = process.env.MODELS ?? join(import.meta.dirname, "../../../fixtures/models")
const backend = await cpu()

/** Values by name. */
const tensors = (path) =>
  new Map([...parseSafetensors(readFileSync(path)).tensors].map(([name, t]) => [name, toFloat32(t.dtype, t.data)]))
const json = (path) => JSON.parse(readFileSync(path, "utf8"))

function near(actual, expected, tolerance, what) {
  assert.equal(actual.length, expected.length, what)
  for (const [i, e] of expected.entries())
    assert.ok(Math.abs(actual[i] - e) <= tolerance, `${what}: value ${i} is ${actual[i]}, not ${e}`)
}

for (const name of ["llama", "gpt2", "qwen2"]) {
  const folder = join(fixtures, name)
  const expected = json(join(folder, "expected.json"))
  const outputs = tensors(join(folder, "expected.safetensors"))
  const { logits_abs, loss_abs, grad_rel_to_max, merged_weight_abs } = expected.tolerance
  const base = await loadCausalLM(join(models, name), { backend })
  const { model } = await loadAdapter(base, folder, { methods: [ia3] })
  const inputs = tensors(join(models, name, "inputs.safetensors"))
  const batch = { ids: Int32Array.from(inputs.get("input_ids")), batch: 2, tokens: 12 }

  test(`${name}: logits`, async () => {
    near(await model.forward(batch).data(), outputs.get("plain.logits"), logits_abs, "logits")
  })

  test(`${name}: loss and gradients`, async () => {
    const [ids, mask, labels] = ["input_ids", "attention_mask", "labels"].map((key) =>
      Int32Array.from(inputs.get(`right.${key}`)),
    )
    const { value, gradients } = valueAndGradients(engineOf(backend), () =>
      model.losses({ ...batch, ids, mask }, labels).mean(),
    )
    near(await value.data(), [expected.loss_right], loss_abs, "loss")
    assert.equal(gradients.size, Object.keys(expected.saved_keys).length)
    for (const { name: path, tensor } of trainables(model)) {
      const key = `right.grad.base_model.model.${path.replace(/\.l$/, ".ia3_l")}`
      const wanted = outputs.get(key)
      near(await gradients.get(tensor).data(), wanted, grad_rel_to_max * Math.max(...wanted.map(Math.abs)), key)
    }
  })

  test(`${name}: merged weights`, async () => {
    const { model: merged } = await merge(model)
    near(await merged.forward(batch).data(), outputs.get("plain.logits"), logits_abs, "logits")
    for (const [path, { abs_sum }] of Object.entries(expected.merged_changed_weights)) {
      const value = merged.view.overlays.get(path)
      const parts = isTensor(value) ? [value] : value.parts.map((part) => part.tensor)
      const values = (await Promise.all(parts.map((part) => part.data()))).flatMap((part) => [...part])
      const sum = values.reduce((total, x) => total + Math.abs(x), 0)
      near([sum], [abs_sum], merged_weight_abs * values.length, path)
    }
  })

  test(`${name}: the same files again`, async () => {
    const out = mkdtempSync(join(tmpdir(), "ia3-"))
    await saveAdapter(model, out)
    for (const [key, values] of tensors(join(folder, "adapter_model.safetensors")))
      near(tensors(join(out, "adapter_model.safetensors")).get(key), values, 0, key)
    assert.deepEqual(json(join(out, "adapter_config.json")), json(join(folder, "adapter_config.json")))
    rmSync(out, { recursive: true })
  })
}
