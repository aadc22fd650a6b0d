/** Replicas of a training in threads of one process; here what runs anywhere, in node.ts how Node starts them. */
export { loseReplica, type SharedJob, sharedJob, threadCommunicator } from "./communicator.ts"
