#version 120
varying vec2 position; // of the picture, 0 to 1
uniform float u_time;
uniform sampler2D iChannel1;

void main() {
    vec4 black = texture2D(iChannel1, position);
    gl_FragData[0] = black + vec4(vec3(fract(8.0 * length(position - 0.5) - u_time)), 1.0);
}
