// Nothing is asked of other servers: Swagger UI would have the document judged elsewhere.
window.ui = SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  validatorUrl: "none",
  deepLinking: true,
  displayRequestDuration: true,
  tryItOutEnabled: true,
});
