const server = require("http").createServer((request, response) => response.end("hello\n"));
server.listen(8081, "::");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
