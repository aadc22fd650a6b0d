/** The published test kit: testBackend and testAdapter, with the test runner passed in. */
export type { TestAdapterOptions } from "./adapter/subject.ts"
export { testAdapter } from "./adapter/test-adapter.ts"
export { type TestBackendOptions, testBackend } from "./backend/test-backend.ts"
export { type FakeBackend, type FakeBackendOptions, fakeBackend } from "./fake-backend.ts"
export {
  type Absent,
  type BackendEntry,
  forEachBackend,
  type MakeBackend,
  type RequiredBackends,
  type Runner,
} from "./runner.ts"
export { toyBatch, toyModel, toyPaths, toySizes } from "./toy-model.ts"
export { perturb, toyGradients, toyLoss, toyLosses, toyStep } from "./toy-training.ts"
