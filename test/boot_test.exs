defmodule EmbeddedEpmd.BootTest do
  # What `kernel` calls while the VM boots, and all that this calls in turn, keeps to the rule in CONTRIBUTING.md ("What
  # runs while the VM boots"). The compiled code shows calls that the source hides, such as those of interpolation and
  # `for`.
  use ExUnit.Case, async: true

  # What OTP calls before any application runs.
  @entry EmbeddedEpmd.Discovery

  # They would be in EmbeddedEpmd.Boot, but two have public names, and the native library has the name of the third.
  @elsewhere [EmbeddedEpmd.Discovery, EmbeddedEpmd.Endpoints, EmbeddedEpmd.Native]

  # Functions of Elixir that are called all the same. They work on the exception alone.
  @exceptions [
    # `rescue` compiles to it.
    {Exception, :normalize, 3},
    # Settings that are not valid.
    {ArgumentError, :exception, 1}
  ]

  # Modules of OTP that ask a process which does not run yet: `:io` the group leader, `:file` the file server.
  @too_early [:io, :file]
  # With the option `:raw` it asks the system itself.
  @raw [{:file, :read_file_info, 2}]

  test "what runs while the VM boots calls OTP alone" do
    violations =
      for module <- Enum.sort(reached([@entry], [])),
          {called, function, arity} = call <- calls(module),
          not ours?(called) and not permitted?(call),
          do: "#{inspect(module)} calls #{inspect(called)}.#{function}/#{arity}"

    assert violations == [], """
    What runs while the VM boots must not call Elixir's library, nor a process that does not run yet (CONTRIBUTING.md):

    #{Enum.map_join(violations, "\n", &("  " <> &1))}
    """
  end

  test "it is in a namespace of its own, and nothing else is" do
    room = for module <- Application.spec(:embedded_epmd, :modules), in_room?(module), do: module
    assert Enum.sort(room ++ @elsewhere) == Enum.sort(reached([@entry], []))
  end

  test "what a call would be is seen, also in interpolation, `for` and a captured function" do
    {:module, _, code, _} =
      defmodule Sample do
        def text(term), do: "#{term}"
        def list(terms), do: for(term <- terms, do: {term})
        def captured, do: &File.read/1
        def log, do: :io.format(~c"x")
      end

    expected = [{String.Chars, :to_string, 1}, {File, :read, 1}, {:io, :format, 1}]
    assert expected -- calls(code) == []
    # `for` calls another function with each version of Elixir.
    assert Enum.any?(calls(code), &match?({Enum, _, _}, &1))
  end

  defp permitted?({module, _, _} = call) do
    if elixir?(module), do: call in @exceptions, else: module not in @too_early or call in @raw
  end

  defp in_room?(module), do: List.starts_with?(Module.split(module), ["EmbeddedEpmd", "Boot"])
  defp elixir?(module), do: String.starts_with?(Atom.to_string(module), "Elixir.")
  defp ours?(module), do: module in Application.spec(:embedded_epmd, :modules)

  # These modules, and ours that they call, directly or through others.
  defp reached([], reached), do: reached

  defp reached([module | modules], reached) do
    if module in reached do
      reached(modules, reached)
    else
      called = for {called, _, _} <- calls(module), ours?(called), do: called
      reached(called ++ modules, [module | reached])
    end
  end

  # All functions of other modules that a module's code calls or refers to. The table of imports lacks those that are
  # captured (`&File.read/1`).
  defp calls(module) when is_atom(module), do: calls(File.read!(:code.which(module)))

  defp calls(code) do
    {:beam_file, module, _exports, _attributes, _compile_info, functions} = :beam_disasm.file(code)
    functions |> functions([]) |> Enum.uniq() |> Enum.reject(&match?({^module, _, _}, &1))
  end

  defp functions({:extfunc, module, function, arity}, found), do: [{module, function, arity} | found]
  defp functions(term, found) when is_tuple(term), do: functions(Tuple.to_list(term), found)
  defp functions(term, found) when is_map(term), do: functions(Map.to_list(term), found)
  defp functions([head | tail], found), do: functions(tail, functions(head, found))

  defp functions(term, found) when is_function(term) do
    [module, name, arity] = for key <- [:module, :name, :arity], do: term |> Function.info(key) |> elem(1)
    [{module, name, arity} | found]
  end

  defp functions(_term, found), do: found
end
