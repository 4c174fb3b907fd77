defmodule EmbeddedEpmd.NotebookTest do
  # Runs the cells of the notebook as Livebook does, with this checkout as the dependency: each cell must return what
  # the notebook shows below it.
  use ExUnit.Case, async: true

  import Support.Vm, only: [free_port: 0]

  @root Path.expand("..", __DIR__)
  @notebook Path.join(@root, "guides/two_nodes.livemd")
  @cell ~r/^```elixir\n(.*?)^```\n(?:\n<!-- livebook:\{"output":true\} -->\n\n```\n(.*?)^```\n)?/ms

  setup do
    %{folder: Support.Folder.new("notebook")}
  end

  test "every cell of the notebook returns what the notebook shows", %{folder: folder} do
    cells = cells()
    shown = for {_, output} <- cells, output, do: output
    assert length(shown) >= 5
    assert {returned, 0} = evaluate(cells, folder)
    assert returned == shown
  end

  test "a cell that returns something else is noticed", %{folder: folder} do
    assert {["3\n"], 0} = evaluate([{"two = 2", nil}, {"two + 1", "4\n"}], folder)
  end

  defp cells do
    for [_, code | output] <- Regex.scan(@cell, File.read!(@notebook)), do: {code, List.first(output)}
  end

  # What the cells with an output return, and the status.
  defp evaluate(cells, folder) do
    script = Path.join(folder, "notebook.exs")
    results = Path.join(folder, "results")
    File.write!(script, script(cells, results))

    environment = [
      {"ERL_EPMD_PORT", "#{free_port()}"},
      {"ERL_EPMD_ADDRESS", nil},
      {"EMBEDDED_EPMD_NATIVE", Path.join([:code.lib_dir(:embedded_epmd), "priv", "native", "epmd_nif.so"])},
      {"MIX_INSTALL_DIR", Path.join(folder, "install")},
      {"MIX_ENV", nil}
    ]

    {output, status} = System.cmd("elixir", [script], env: environment, stderr_to_stdout: true)
    if status != 0, do: IO.puts(output)
    {results |> File.read!() |> :erlang.binary_to_term() |> Enum.reverse(), status}
  end

  # The cells share their variables, their imports and the process that evaluates them.
  defp script(cells, results) do
    cells =
      for {code, output} <- cells, do: {String.replace(code, ~s("~> 0.1"), "path: #{inspect(@root)}"), output != nil}

    """
    {_, _, returned} =
      Enum.reduce(#{inspect(cells, limit: :infinity, printable_limit: :infinity)}, {[], __ENV__, []}, fn
        {code, shown?}, {binding, env, returned} ->
          {value, binding, env} = Code.eval_quoted_with_env(Code.string_to_quoted!(code), binding, env)
          {binding, env, if(shown?, do: [inspect(value, pretty: true) <> "\\n" | returned], else: returned)}
      end)

    File.write!(#{inspect(results)}, :erlang.term_to_binary(returned))
    """
  end
end
