[
  line_length: 120,
  inputs: [
    "{mix,.formatter}.exs",
    "{lib,test,bench}/**/*.{ex,exs}",
    "native/mix/*.exs",
    "examples/*/mix.exs",
    "examples/*/{config,lib,test}/**/*.{ex,exs}"
  ]
]
