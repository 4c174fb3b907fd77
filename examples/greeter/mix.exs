defmodule Greeter.MixProject do
  use Mix.Project

  def project do
    [
      app: :greeter,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      deps: [{:embedded_epmd, path: "../.."}],
      releases: [
        prod: [include_executables_for: [:unix]],
        stage: [include_executables_for: [:unix]]
      ]
    ]
  end

  def application do
    [mod: {Greeter.Application, []}, extra_applications: [:logger]]
  end
end
