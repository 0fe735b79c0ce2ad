"""The HTTP side: application, request and response models, routes, middleware, page files."""
