for file <- ~w(target cargo download prebuilt compile appup), do: Code.require_file("native/mix/#{file}.exs", __DIR__)

defmodule EmbeddedEpmd.MixProject do
  use Mix.Project

  # Cargo reads it there as well.
  @version Path.join(__DIR__, "Cargo.toml")
           |> File.read!()
           |> then(&Regex.run(~r/^version = "(.*)"$/m, &1, capture: :all_but_first))
           |> hd()

  # To be set on the day of the first release; from then on mix compile takes the library of that release from there.
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
      description: "The Erlang port mapper (EPMD) inside the VM: no daemon, nothing to lose with a service",
      source_url: @source_url,
      package: package(),
      docs: docs(),
      deps: []
    ]
  end

  # No modules of our own run as an application: the release's own tree supervises EmbeddedEpmd.
  def application do
    # The tests make certificates, and serve files.
    [extra_applications: [:logger] ++ if(Mix.env() == :test, do: [:public_key, :inets], else: [])]
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      links:
        if(@source_url,
          do: %{"Source" => @source_url, "Changelog" => "#{@source_url}/blob/v#{@version}/CHANGELOG.md"},
          else: %{}
        ),
      # A release has checksums, a checkout does not.
      files: ~w(lib mix.exs .formatter.exs Cargo.toml Cargo.lock .cargo native/mix native/*/Cargo.toml native/*/build.rs
           native/*/src README.md CHANGELOG.md SECURITY.md LICENSE guides) ++ Path.wildcard("checksum-*.exs")
    ]
  end

  defp docs do
    [
      main: "readme",
      source_ref: "v#{@version}",
      extras: [
        "README.md",
        "CHANGELOG.md",
        # guides/security.md has the shorter name.
        {:"SECURITY.md", [filename: "security_policy", title: "Security policy"]},
        "LICENSE" | Path.wildcard("guides/*.md")
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
