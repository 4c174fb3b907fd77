defmodule EmbeddedEpmd.ArgumentsTest do
  # Bad arguments of the tasks. Mix shows a Mix.Error without the stack.
  use ExUnit.Case, async: true

  alias Mix.Tasks.EmbeddedEpmd.{Doctor, Install, Names}

  for {task, arguments, sentence} <- [
        {Names, ["--port", "99999"], "--port must be a port from 1 to 65535, got: 99999"},
        {Names, ["--port", "0"], "--port must be a port from 1 to 65535, got: 0"},
        {Names, ["--port", "x"], "--port : Expected type integer, got \"x\""},
        {Names, ["--nothing"], "--nothing : Unknown option"},
        {Names, ["one", "two"], "expected one HOST at most, got: one two"},
        {Install, ["please"], "expected no arguments, got: please"},
        {Install, ["--nothing"], "--nothing : Unknown option"},
        {Doctor, ["one@host", "two@host"], "expected one NODE at most, got: one@host two@host"},
        {Doctor, ["--nothing"], "--nothing : Unknown option"}
      ] do
    test "#{inspect(task)} #{Enum.join(arguments, " ")}" do
      error = assert_raise Mix.Error, fn -> unquote(task).run(unquote(arguments)) end
      assert error.message =~ unquote(sentence)
    end
  end
end
