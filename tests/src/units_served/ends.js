require("http").createServer((request, response) => setTimeout(() => response.end("hello\n"), 5)).listen(8081, "::");
