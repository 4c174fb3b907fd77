for file <- ~w(compile appup), do: Code.require_file("native/mix/#{file}.exs", __DIR__)

defmodule EmbeddedEpmd.MixProject do
  use Mix.Project

  # Cargo.toml is the one place for the version.
  @version Path.join(__DIR__, "Cargo.toml")
           |> File.read!()
           |> then(&Regex.run(~r/^version = "(.*)"$/m, &1, capture: :all_but_first))
           |> hd()

  # To be set for the first release. From then on mix compile downloads the library of its version from there.
  @source_url nil

  def project do
    [
      app: :embedded_epmd,
      name: "embedded_epmd",
      version: @version,
      elixir: "~> 1.14",
      compilers: [:embedded_epmd_native] ++ Mix.compilers() ++ [:embedded_epmd_appup],
      elixirc_paths: if(Mix.env() == :test, do: ["lib", "test/support"], else: ["lib"]),
      base_url: @source_url && "#{@source_url}/releases/download/v#{@version}",
      description:
        "Runs EPMD inside your Elixir release: no separate epmd daemon, and node discovery survives restarts and crashes",
      source_url: @source_url,
      package: package(),
      docs: docs(),
      deps: []
    ]
  end

  # There is no application callback: EmbeddedEpmd belongs into the supervision tree of its user.
  def application do
    # The tests create certificates, and serve files over HTTP.
    [extra_applications: [:logger] ++ if(Mix.env() == :test, do: [:public_key, :ssl, :inets], else: [])]
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      links:
        if(@source_url,
          do: %{"Source" => @source_url, "Changelog" => "#{@source_url}/blob/v#{@version}/CHANGELOG.md"},
          else: %{}
        ),
      # The checksum file exists only when a release is made (RELEASE.md).
      files:
        ~w(lib mix.exs .formatter.exs Cargo.toml Cargo.lock .cargo/config.toml native/mix native/*/Cargo.toml native/*/build.rs
           native/*/src bench/Cargo.toml bench/src README.md CHANGELOG.md SECURITY.md LICENSE usage-rules.md guides) ++
          Path.wildcard("checksum-*.exs")
    ]
  end

  defp docs do
    [
      main: "readme",
      source_ref: "v#{@version}",
      extras: [
        "README.md",
        "CHANGELOG.md",
        # Without a name of its own it would overwrite the page of guides/security.md.
        {:"SECURITY.md", [filename: "security_policy", title: "Security policy"]},
        "LICENSE" | Path.wildcard("guides/*.{md,livemd}")
      ],
      groups_for_extras: [Guides: ~r{^guides/}],
      before_closing_body_tag: &diagrams/1
    ]
  end

  # guides/how_it_works.md has diagrams.
  defp diagrams(:html) do
    """
    <script src="https://cdn.jsdelivr.net/npm/mermaid@11/dist/mermaid.min.js"></script>
    <script>
      document.addEventListener("DOMContentLoaded", () => {
        mermaid.initialize({ startOnLoad: false, theme: document.body.className.includes("dark") ? "dark" : "default" });
        let count = 0;
        for (const code of document.querySelectorAll("pre code.mermaid")) {
          mermaid.render("diagram-" + count++, code.textContent).then(({ svg }) => {
            const drawing = document.createElement("div");
            drawing.innerHTML = svg;
            code.parentElement.replaceWith(drawing);
          });
        }
      });
    </script>
    """
  end

  defp diagrams(_), do: ""
end
