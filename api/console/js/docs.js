// The page /docs: the description of the API, from this very service.

// A proxy may have put the service under a path, which the description cannot know: calls go to where this page lies.
const here = new URL(".", location.href).href.replace(/\/$/, "");
const callsGoHere = {
  statePlugins: {
    spec: { wrapActions: { updateJsonSpec: (next) => (spec) => next({ ...spec, servers: [{ url: here }] }) } },
  },
};

SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  validatorUrl: null,
  plugins: [callsGoHere],
});
