// Nodes of this pack that show runs, and how the server's ids find them: "12:7" is node 7 inside subgraph node 12.
import { app } from "../../../scripts/app.js";

export const VIEWED = ["SAGGuidance", "SAGRecordAttention", "SAGSampler", "SAGMaskPreview"];

/** The workflow that is open. */
export const workflowId = () => String(rootGraph()?.id ?? "");

export const rootGraph = () => app.rootGraph ?? app.graph;

/** All nodes, those inside subgraphs too, each as [id the server knows it by, node]. */
export function* everyNode(graph = rootGraph(), path = "") {
  for (const node of graph?.nodes ?? []) {
    yield [path + node.id, node];
    if (node.subgraph) yield* everyNode(node.subgraph, `${path}${node.id}:`);
  }
}

/** The server's ids of a node: several where its subgraph is used more than once. */
export const idsOf = (node) => [...everyNode()].filter(([, other]) => other === node).map(([id]) => id);

/** A node's results among the frontend's, which knows nodes inside subgraphs by those subgraphs' own ids. */
export const outputsOf = (node, outputs) =>
  outputs?.[node.graph === rootGraph() ? node.id : `${node.graph?.id}:${node.id}`];

/** The id of a node that is in the graph: nodes that a loop node made are shown on the node they came from. */
export const shownId = (id) => String(id).split(".")[0];
