defmodule Support.Guide do
  @moduledoc """
  Reads the blocks of a guide, and runs its commands. A block of shell after the line <!-- run --> is run, a block after
  <!-- file: PATH --> is written to that file, and the text after #=> must be in the output of its block.
  """

  import Support.Vm, only: [free_port: 0]
  import ExUnit.Assertions

  alias Support.Release

  @root Path.expand("../..", __DIR__)
  @block ~r/^<!-- (run|file: \S+|setup: \w+) -->\n(?:```\w+\n(.*?)^```$)?/ms

  @doc "The blocks of a guide that are run or written. Each has a number, since a guide may have the same one twice."
  def blocks(text) do
    for {[_, kind | block], number} <- Enum.with_index(Regex.scan(@block, text)), do: {kind, Enum.join(block), number}
  end

  @doc "The first block with this text."
  def block(guide, text) do
    Enum.find(all_blocks(guide), &String.contains?(&1, text)) || flunk("the guide has no block with #{text}")
  end

  @doc "The first block after this text."
  def block_after(guide, text) do
    [_, rest] = String.split(guide, text, parts: 2)
    hd(all_blocks(rest))
  end

  defp all_blocks(guide), do: for([_, block] <- Regex.scan(~r/^```\w+\n(.*?)^```$/ms, guide), do: block)

  @doc "Runs the blocks, and looks for what they say in their output."
  def assert_holds(blocks) do
    {output, status} = run(Enum.map_join(blocks, &script/1))
    assert status == 0, output

    for {"run", text, number} <- blocks, expected <- expectations(text) do
      [_, after_it] = String.split(output, "==== #{number} begins\n", parts: 2)
      [of_block, _] = String.split(after_it, "==== #{number} ends\n", parts: 2)
      assert of_block =~ expected, "expected #{inspect(expected)} in:\n" <> of_block
    end
  end

  defp script({"run", text, number}), do: "echo '==== #{number} begins'\n#{text}echo '==== #{number} ends'\n"

  defp script({"file: " <> path, text, _}), do: "cat >#{path} <<'END_OF_FILE'\n#{text}END_OF_FILE\n"

  # The library as `mix compile` made it of this repository, since that takes long.
  defp script({"setup: library", _, _}), do: library()

  # The example project, with nothing else compiled.
  defp script({"setup: greeter", _, _}) do
    """
    mkdir project
    cp -r embedded_epmd/examples/greeter/{lib,rel,mix.exs} project
    cd project
    sed -i 's#path: "../.."#path: "../embedded_epmd"#' mix.exs
    """ <> library()
  end

  defp library do
    """
    mkdir -p _build/{dev,prod}/lib
    for environment in dev prod; do cp -a #{Release.compiled_library()} _build/$environment/lib; done
    """
  end

  defp expectations(text), do: for([_, expected] <- Regex.scan(~r/^#=> (.*)$/m, text), do: expected)

  defp run(script) do
    folder = Path.join(System.tmp_dir!(), "embedded_epmd_guide_#{System.pid()}_#{System.unique_integer([:positive])}")
    File.mkdir_p!(folder)
    # The release writes into this folder, and clean_up finds its processes by it.
    ExUnit.Callbacks.on_exit(fn -> Release.clean_up(%{tmp: folder}) end)
    File.ln_s!(@root, Path.join(folder, "embedded_epmd"))
    File.write!(Path.join(folder, "guide.sh"), "set -e\ncd #{folder}\n" <> script)

    environment = [
      {"RELEASE_TMP", folder},
      {"ERL_EPMD_PORT", "#{free_port()}"},
      {"ERL_EPMD_ADDRESS", "127.0.0.1"},
      {"EMBEDDED_EPMD_NATIVE", Path.join([:code.lib_dir(:embedded_epmd), "priv", "native", "epmd_nif.so"])},
      {"MIX_ENV", nil},
      {"ERL_FLAGS", nil}
    ]

    # Processes that are left behind would keep the output of System.cmd open, so timeout kills the whole group.
    System.cmd("timeout", ["-k", "5", "240", "bash", Path.join(folder, "guide.sh")],
      env: environment,
      stderr_to_stdout: true,
      cd: folder
    )
  end
end
