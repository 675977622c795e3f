// Shows what this node's /openapi.json says, and sends what is tried out to this node: wherever it
// is, so by its own address, behind a proxy too. Nobody else is asked for anything.
const node = new URL("..", import.meta.url).href.replace(/\/$/, "");
const answer = await fetch(`${node}/openapi.json`);
const spec = await answer.json();
spec.servers = [{ url: node }];
SwaggerUIBundle({
  spec,
  dom_id: "#docs",
  deepLinking: true,
  defaultModelsExpandDepth: 0,
  docExpansion: "list",
  validatorUrl: null,
});
