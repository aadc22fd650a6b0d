/** Who owns which buffer: scopes, nested scopes, errors, what outlives them, and gradients. */
import { fakeBackend } from "@peftjs/conformance"
import { describe, expect, it } from "vitest"
import {
  assign,
  checkpoint,
  engineOf,
  free,
  hold,
  noGrad,
  scope,
  type Tensor,
  tensor,
  valueAndGradients,
} from "../src/index.ts"

function setUp() {
  const backend = fakeBackend()
  const engine = engineOf(backend)
  const make = (...values: number[]): Tensor => tensor(backend, values, [values.length])
  return { backend, engine, make, live: () => [backend.live(), engine.liveBuffers] }
}

describe("scope", () => {
  it("frees what it made but not what it returns, wherever that is hidden", async () => {
    const { engine, make, live } = setUp()
    const kept = scope(engine, () => {
      make(1).add(2)
      return { a: make(3), list: [make(4), "text"], map: new Map([["b", make(5)]]) }
    })
    expect(live()).toEqual([3, 3])
    expect([...(await kept.a.data()), ...(await (kept.list[0] as Tensor).data())]).toEqual([3, 4])
    for (const t of [kept.a, kept.list[0] as Tensor, kept.map.get("b") as Tensor]) free(t)
    expect(live()).toEqual([0, 0])
  })

  it("nested, hands what it returns to the one around it", () => {
    const { engine, make, live } = setUp()
    scope(engine, () => {
      const inner = scope(engine, () => make(1).add(1))
      expect(live()).toEqual([1, 1])
      inner.add(1)
      expect(live()).toEqual([2, 2])
    })
    expect(live()).toEqual([0, 0])
  })

  it("frees everything when its body throws, and leaves the one around it as it was", () => {
    const { engine, make, live } = setUp()
    scope(engine, () => {
      const outer = make(1)
      expect(() =>
        scope(engine, () => {
          make(2).add(3)
          throw new Error("stop")
        }),
      ).toThrow("stop")
      expect(live()).toEqual([1, 1])
      outer.add(1)
    })
    expect(live()).toEqual([0, 0])
    expect(engine.scope).toBeUndefined()
  })

  it("counts a buffer that several shapes share once", async () => {
    const { engine, make, live } = setUp()
    const flat = scope(engine, () => make(1, 2, 3, 4).reshape([2, 2]).reshape([4, 1]))
    expect(live()).toEqual([1, 1])
    expect([...(await flat.data())]).toEqual([1, 2, 3, 4])
    free(flat)
    expect(live()).toEqual([0, 0])
  })

  it("returns a promised transposition together with what it reads", async () => {
    const { backend, engine, live } = setUp()
    const turned = scope(engine, () => tensor(backend, [1, 2, 3, 4], [2, 2]).mul(2).T)
    expect([...(await turned.data())]).toEqual([2, 6, 4, 8])
    expect(live()).toEqual([1, 1])
  })
})

describe("tensors after their scope", () => {
  it("are refused by code", async () => {
    const { engine, make } = setUp()
    let lost: Tensor | undefined
    scope(engine, () => {
      lost = make(1)
    })
    expect(() => lost?.add(1)).toThrow(/E_FREED/)
    await expect(lost?.data()).rejects.toThrow(/E_FREED/)
  })

  it("live on when they are held, once for every hold", async () => {
    const { engine, make, live } = setUp()
    const [one, two] = scope(engine, () => {
      const t = make(1, 2)
      return [hold(t), hold(t)] as const
    })
    free(one)
    expect([...(await two.data())]).toEqual([1, 2])
    free(two)
    expect(live()).toEqual([0, 0])
  })

  it("hold turns a promised transposition into a matrix", async () => {
    const { backend, engine } = setUp()
    const held = scope(engine, () => hold(tensor(backend, [1, 2, 3, 4, 5, 6], [2, 3]).T))
    expect([...(await held.data())]).toEqual([1, 4, 2, 5, 3, 6])
  })

  it("a copy to the host that has begun is not disturbed by the scope's end", async () => {
    const { engine, make, live } = setUp()
    let copy: Promise<unknown> | undefined
    scope(engine, () => {
      copy = make(1, 2).add(1).data()
    })
    expect(await copy).toEqual(Float32Array.of(2, 3))
    expect(live()).toEqual([0, 0])
  })
})

describe("assign", () => {
  it("replaces the values of a held tensor and frees the old ones", async () => {
    const { engine, make, live } = setUp()
    const p = scope(engine, () => hold(make(1, 2)))
    scope(engine, () => assign(p, p.add(10)))
    expect([...(await p.data())]).toEqual([11, 12])
    expect(live()).toEqual([1, 1])
  })

  it("copies values that somebody else still needs", async () => {
    const { engine, make } = setUp()
    const [p, q] = scope(engine, () => [hold(make(1)), hold(make(5))] as const)
    assign(p, q)
    scope(engine, () => assign(q, q.add(1)))
    expect([(await p.data())[0], (await q.data())[0]]).toEqual([5, 6])
  })
})

describe("gradients", () => {
  it("belong to the caller; the tape leaves nothing behind", async () => {
    const { engine, make, live } = setUp()
    const p = scope(engine, () => hold(make(1, 2)))
    p.requiresGrad = true
    const { value, gradients } = valueAndGradients(engine, () => p.square().mul(make(3, 4)).sum())
    expect(live()).toEqual([3, 3])
    expect([(await value.data())[0], ...((await gradients.get(p)?.data()) ?? [])]).toEqual([19, 6, 16])
    free(value)
    for (const g of gradients.values()) free(g)
    expect(live()).toEqual([1, 1])
  })

  it("leave nothing behind when the body throws, is no scalar, or needs no gradient", () => {
    const { engine, make, live } = setUp()
    const p = scope(engine, () => hold(make(1, 2)))
    p.requiresGrad = true
    const attempts: [() => Tensor, RegExp][] = [
      [
        () =>
          p
            .square()
            .add(make(1, 2, 3))
            .sum(),
        /E_SHAPE/,
      ],
      [() => p.square(), /E_SHAPE/],
      [
        () => {
          p.square()
          return make(1)
        },
        /E_NO_GRAD/,
      ],
      [() => noGrad(engine, () => p.sum()), /E_NO_GRAD/],
    ]
    for (const [body, error] of attempts) expect(() => valueAndGradients(engine, body)).toThrow(error)
    expect(live()).toEqual([1, 1])
    expect(engine.tape).toBeUndefined()
  })

  it("flow through a promised transposition wherever it is used", async () => {
    const { backend, engine } = setUp()
    const p = scope(engine, () => hold(tensor(backend, [1, 2, 3, 4], [2, 2])))
    p.requiresGrad = true
    const weights = scope(engine, () => hold(tensor(backend, [1, 10, 100, 1000], [2, 2])))
    for (const body of [
      () => p.T.mul(weights).sum(),
      () =>
        checkpoint(engine, () => p.mul(1).T)
          .mul(weights)
          .sum(),
    ]) {
      const { gradients } = valueAndGradients(engine, body)
      expect([...((await gradients.get(p)?.data()) ?? [])]).toEqual([1, 100, 10, 1000])
    }
  })
})

describe("checkpoint", () => {
  it("keeps what its block uses until the block has run again, also what needs no gradient", async () => {
    const { engine, make, live } = setUp()
    const p = scope(engine, () => hold(make(1, 2)))
    p.requiresGrad = true
    let runs = 0
    const { value, gradients } = valueAndGradients(engine, () => {
      const loss = scope(engine, () => {
        const mask = make(0, 5)
        return checkpoint(engine, () => {
          runs++
          return p.square().mul(mask)
        })
      })
      return loss.sum()
    })
    expect(runs).toBe(2)
    expect([(await value.data())[0], ...((await gradients.get(p)?.data()) ?? [])]).toEqual([20, 0, 20])
    free(value)
    for (const g of gradients.values()) free(g)
    expect(live()).toEqual([1, 1])
  })

  it("inside another runs and gives the same", async () => {
    const { engine, make } = setUp()
    const p = scope(engine, () => hold(make(0.5, -1)))
    p.requiresGrad = true
    const inner = (): Tensor => checkpoint(engine, () => p.tanh().mul(p))
    const plain = valueAndGradients(engine, () => p.tanh().mul(p).exp().sum())
    const nested = valueAndGradients(engine, () => checkpoint(engine, () => inner().exp()).sum())
    expect(await nested.value.data()).toEqual(await plain.value.data())
    expect(await nested.gradients.get(p)?.data()).toEqual(await plain.gradients.get(p)?.data())
  })
})
